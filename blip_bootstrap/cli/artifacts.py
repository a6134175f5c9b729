"""The commands `artifacts` and `gc`: what lies under a run's root, and what of it no round needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from blip_bootstrap.cli.options import Root, run_folder


def artifacts(root: Root = None) -> None:
    """List what steps have made: by which round it is used, step, recipe digest, rows, size, state."""
    from blip_bootstrap.loop.leftovers import list_artifacts
    from blip_bootstrap.storage.run_folder import check_run

    folder = run_folder(root)
    check_run(folder)
    rows = [
        (", ".join(one.names), one.step, one.digest, f"{one.rows:,}" if one.rows else "", _size(one.size_bytes),
         one.made[:16].replace("T", " "), one.state)
        for one in list_artifacts(folder)
    ]  # fmt: skip
    _print(("name", "step", "digest", "rows", "size", "made", "state"), rows)


def gc(
    root: Root = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is listed; it cannot be had back.")] = False,
) -> None:
    """List what no round points to, with its size and age; with --delete, delete it."""
    from blip_bootstrap.errors import InputError
    from blip_bootstrap.loop import leftovers
    from blip_bootstrap.loop.maker import locked
    from blip_bootstrap.storage.remote import remote_of
    from blip_bootstrap.storage.run_folder import check_run

    folder = run_folder(root)
    check_run(folder)
    if remote_of(folder):
        raise InputError(f"{root}: gc works on runs that lie on this machine")
    with locked(folder):
        found = leftovers.leftovers(folder)
        rows = [
            (one.folder.relative_to(folder).as_posix(), one.step, _size(one.size_bytes), _age(one.age_s), one.state)
            for one in found
        ]
        _print(("folder", "step", "size", "age", "state"), rows)
        total = f"{len(found)} that no round points to, {_size(sum(one.size_bytes for one in found))}"
        if not delete:
            typer.echo(f"{total}{'; --delete deletes them' if found else ''}")
            return
        for one in leftovers.delete(found):
            typer.echo(f"deleted {one.folder.relative_to(folder).as_posix()} ({_size(one.size_bytes)})")
        typer.echo(f"deleted: {total}")


def _print(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    table = Table(*head, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 200).print(table)


def _size(size_bytes: float) -> str:
    """A size as people read it: 3.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.1f} TB"


def _age(age_s: float) -> str:
    hours = age_s / 3600
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"


def mount_artifacts(app: typer.Typer) -> None:
    """Add `artifacts` and `gc` to the command line."""
    app.command(epilog="Example: `blip-bootstrap artifacts --root runs/demo`")(artifacts)
    app.command(epilog="Example: `blip-bootstrap gc --root runs/demo`")(gc)
