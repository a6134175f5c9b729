"""`blip-bootstrap demo`: two rounds on a drawn world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blip_bootstrap.cli.options import GOES_ON, BreakLock, LastRound, RayAddress, Settings, say
from blip_bootstrap.demo.run import run_demo
from blip_bootstrap.ending import ended_early
from blip_bootstrap.paths import run_argument
from blip_bootstrap.report.summary import print_summary
from blip_bootstrap.storage.lock import break_lock
from blip_bootstrap.storage.remote import opened
from blip_bootstrap.stores.store import shown

commands = typer.Typer(rich_markup_mode="markdown")


@commands.command(epilog="Example: `blip-bootstrap demo --set select.strategy=threshold`")
def demo(
    root: Annotated[
        Path,
        typer.Option(
            "--root", parser=run_argument, metavar="PATH", help="Folder of the demo's run, or s3:// or gs://."
        ),
    ] = Path("runs/demo"),
    number: LastRound = 1,
    settings: Settings = None,
    ray: RayAddress = None,
    broken: BreakLock = False,
) -> None:
    """Run two CapFilt rounds on a drawn world, with a web server that also fails; takes minutes and needs no data."""
    with ended_early(GOES_ON):
        root = opened(root, make=True)
        if broken:
            say(break_lock(root))
        report = run_demo(root, number, settings or [], ray, say)
    print_summary(root)
    typer.echo(shown(f"report: {report}"))
