"""`blip-bootstrap plan`: what a run over N images will cost, measured on a sample of them."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from blip_bootstrap.cli.options import ConfigFile, NewRoot, Settings, load, say
from blip_bootstrap.planning import cost, measure
from blip_bootstrap.query.formats import render, terminal_encoding

commands = typer.Typer(rich_markup_mode="markdown")


@commands.command(epilog="Example: `blip-bootstrap plan --images 10_000_000 --workers 8 --config my.yaml`")
def plan(
    images: Annotated[int, typer.Option("--images", min=1, help="Rows of the URL lists to plan for.")],
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="How many workers there will be. Default: as many as on this machine."),
    ] = None,
    config: ConfigFile = None,
    root: NewRoot = None,
    settings: Settings = None,
    sample: Annotated[int, typer.Option("--sample", min=8, help="How many images to measure with.")] = 256,
    limit_s: Annotated[float, typer.Option("--limit-s", help="Seconds that captioning the sample may take.")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
) -> None:
    """Measure this machine on a small sample; print rows, disk, time and memory of a round over many images."""
    costs, disk_bytes_per_s = measure.measure_steps(load(config, root, settings), sample, limit_s, say)
    planned = cost.plan_steps(costs, images, workers, disk_bytes_per_s)
    if as_json:
        steps = planned.to_pylist()
        typer.echo(json.dumps({"images": images, "workers": workers, "steps": steps[:-1], "all": steps[-1]}))
        return
    typer.echo(render(cost.for_people(planned), "table", encoding=terminal_encoding()), nl=False)
    say("One round. Not in it: round 0 before the first one, and what the network does when all workers fetch.")
