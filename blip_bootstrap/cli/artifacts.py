"""The command `artifacts`: what lies under a run's root."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from blip_bootstrap.cli.asked_run import Root, run_folder
from blip_bootstrap.loop.leftovers import damaged_in, list_artifacts
from blip_bootstrap.storage.run_folder import check_run
from blip_bootstrap.stores.store import shown

commands = typer.Typer(rich_markup_mode="markdown")


@commands.command(epilog="Example: `blip-bootstrap artifacts --root runs/demo`")
def artifacts(
    root: Root = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file, and compare it with the digest that it was made with.")
    ] = False,
) -> None:
    """List what steps have made: by which round it is used, step, recipe digest, rows, size, state.

    With `--verify` instead the files that are missing or damaged; exit code 1 where there are any.
    """
    folder = run_folder(root)
    check_run(folder)
    if verify:
        found = [f"{path}: damaged or missing" for path in damaged_in(folder)]
        typer.echo(shown("\n".join([*found, f"{len(found)} files damaged or missing"])))
        raise typer.Exit(1 if found else 0)
    rows = [
        (", ".join(one.names), one.step, one.digest, f"{one.rows:,}" if one.rows else "", told_size(one.size_bytes),
         one.made[:16].replace("T", " "), one.state)
        for one in list_artifacts(folder)
    ]  # fmt: skip
    print_rows(("name", "step", "digest", "rows", "size", "made", "state"), rows)


def print_rows(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table of texts; nothing where it has no rows."""
    if not rows:
        return
    table = Table(*head, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 200).print(table)


def told_size(size_bytes: float) -> str:
    """A size as people read it: 3.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.1f} TB"
