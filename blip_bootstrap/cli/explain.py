"""The commands `why` and `diff`: what became of one image, and what is another in another round."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from blip_bootstrap.audit.diff import print_diff
from blip_bootstrap.cli.asked_run import Root, run_folder
from blip_bootstrap.paths import path_argument, run_argument
from blip_bootstrap.report.why import print_why
from blip_bootstrap.stores.store import shown

commands = typer.Typer(rich_markup_mode="markdown")


@commands.command(epilog="Example: `blip-bootstrap why 0000000042 --root runs/demo --open`")
def why(
    name: Annotated[str, typer.Argument(metavar="KEY", help="An image's key, uid, sha256 or URL.")],
    root: Root = None,
    page: Annotated[
        Path | None,
        typer.Option("--page", parser=path_argument, metavar="PATH", help="Write a page with the picture here, too."),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
) -> None:
    """Show all that is known of one image: its fetch, and its texts in every round with scores and verdicts."""
    if open_page and page is None:
        page = Path(tempfile.mkdtemp(prefix="blip-bootstrap-")) / "why.html"
    print_why(run_folder(root), name, page)
    if page:
        typer.echo(shown(str(page)))
    if open_page and page:
        typer.launch(page.resolve().as_uri())


@commands.command(epilog="Example: `blip-bootstrap diff --rounds 1 2 --root runs/demo`")
def diff(
    rounds: Annotated[tuple[int, int], typer.Option("--rounds", help="The round before and the one after.")],
    root: Root = None,
    other: Annotated[
        Path | None,
        typer.Option(
            "--other", parser=run_argument, metavar="PATH", help="The run of the second round, if it is another."
        ),
    ] = None,
) -> None:
    """Show what changed between two rounds, or between rounds of two runs: texts, reasons, noise, settings."""
    print_diff(run_folder(root), rounds[0], rounds[1], run_folder(other) if other else None)
