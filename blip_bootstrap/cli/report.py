"""`blip-bootstrap report`: the pages of a run, written again."""

from __future__ import annotations

import typer

from blip_bootstrap.audit.open_run import OpenRun
from blip_bootstrap.cli.asked_run import Root, RoundNumber, run_folder
from blip_bootstrap.report.overview_page import write_overview
from blip_bootstrap.report.round_page import write_report
from blip_bootstrap.stores.store import shown

commands = typer.Typer(rich_markup_mode="markdown")


@commands.command(epilog="Example: `blip-bootstrap report --round 1 --root runs/demo`")
def report(root: Root = None, number: RoundNumber = None) -> None:
    """Write the page of a round again; without --round the last one's, and that over all rounds. Prints their paths."""
    folder = run_folder(root)
    with OpenRun(folder) as run:
        typer.echo(shown(str(write_report(folder, number, run=run, always=True))))
        if number is None:
            typer.echo(shown(str(write_overview(folder, run, always=True))))
