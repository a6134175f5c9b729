"""The command `gc`: what no round of a run points to, listed, and deleted where one asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blip_bootstrap.cli.artifacts import print_rows, told_size
from blip_bootstrap.cli.asked_run import Root, run_folder
from blip_bootstrap.cli.options import BreakLock, say
from blip_bootstrap.loop import leftovers
from blip_bootstrap.storage.lock import break_lock, locked
from blip_bootstrap.storage.run_folder import check_run
from blip_bootstrap.stores.store import store_of

commands = typer.Typer(rich_markup_mode="markdown")


@commands.command(epilog="Example: `blip-bootstrap gc --root runs/demo`")
def gc(
    root: Root = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is listed; it cannot be had back.")] = False,
    broken: BreakLock = False,
) -> None:
    """List what no round points to, with its size and age; with --delete, delete it."""
    folder = run_folder(root)
    check_run(folder)
    if broken:
        say(break_lock(folder))
    with locked(folder):
        found = leftovers.leftovers(folder)
        rows = [
            (one.folder.relative_to(folder).as_posix(), one.step, told_size(one.size_bytes), _age(one.age_s), one.state)
            for one in found
        ]
        print_rows(("folder", "step", "size", "age", "state"), rows)
        total = f"{len(found)} that no round points to, {told_size(sum(one.size_bytes for one in found))}"
        if not delete:
            typer.echo(f"{total}{'; --delete deletes them' if found else ''}")
            _tell_of_copy(folder)
            return
        for one in leftovers.delete(found):
            typer.echo(f"deleted {one.folder.relative_to(folder).as_posix()} ({told_size(one.size_bytes)})")
        typer.echo(f"deleted: {total}")


def _tell_of_copy(folder: Path) -> None:
    """Say where the working copy of a run on a store lies, and what it takes."""
    if store := store_of(folder):
        size = told_size(sum(one.stat().st_size for one in store.folder.rglob("*") if one.is_file()))
        typer.echo(f"working copy: {store.folder}, {size}; may be deleted while no command is at work on the run")


def _age(age_s: float) -> str:
    hours = age_s / 3600
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
