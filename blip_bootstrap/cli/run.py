"""`blip-bootstrap run`: CapFilt up to a round."""

from __future__ import annotations

from typing import Annotated

import typer

from blip_bootstrap.cli.options import (
    GOES_ON,
    BreakLock,
    ConfigFile,
    LastRound,
    NewRoot,
    RayAddress,
    Remake,
    Retry,
    Settings,
    load,
    say,
)
from blip_bootstrap.ending import ended_early
from blip_bootstrap.errors import NothingLeft
from blip_bootstrap.loop.rounds import run_rounds
from blip_bootstrap.report.summary import print_summary
from blip_bootstrap.storage.lock import break_lock
from blip_bootstrap.stores.store import shown

commands = typer.Typer(rich_markup_mode="markdown")


@commands.command(epilog="Example: `blip-bootstrap run --round 2 --config configs/flickr8k.yaml --ray auto`")
def run(
    number: LastRound,
    config: ConfigFile = None,
    root: NewRoot = None,
    settings: Settings = None,
    ray: RayAddress = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Use only so many first rows of each list, of URLs or pictures."),
    ] = None,
    remake: Remake = None,
    broken: BreakLock = False,
    retry: Retry = None,
) -> None:
    """Run CapFilt up to a round; makes only what is missing or out of date."""
    with ended_early(GOES_ON):
        loaded = load(config, root, settings, ray, limit)
        if broken:
            say(break_lock(loaded.root))
        try:
            report = run_rounds(loaded, number, say, remake or (), retry)
        except NothingLeft:
            print_summary(loaded.root)
            raise
    print_summary(loaded.root)
    typer.echo(shown(f"report: {report}"))
