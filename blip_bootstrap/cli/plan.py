"""`blip-bootstrap plan`: what a run over N images will cost, measured on a sample of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from blip_bootstrap.paths import path_argument


def mount_plan(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog="Example: `blip-bootstrap plan --images 10_000_000 --workers 8 --config my.yaml`")(plan)


def plan(
    images: Annotated[int, typer.Option("--images", min=1, help="Rows of the URL lists to plan for.")],
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Workers like those measured here.")] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", parser=path_argument, metavar="PATH", help="YAML file; see `config show`."),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option("--root", parser=path_argument, metavar="PATH", help="Where the run lies, or will lie."),
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="One setting, as `caption.candidates=2`.")] = None,
    sample: Annotated[int, typer.Option("--sample", min=8, help="Images to measure with.")] = 256,
    limit_s: Annotated[
        float, typer.Option("--limit-s", help="Seconds after which captioning is measured enough.")
    ] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
) -> None:
    """Measure this machine on a small sample; print rows, disk, time and memory of a run over many images."""
    from blip_bootstrap.config import load_config
    from blip_bootstrap.planning.cost import for_people, plan_steps
    from blip_bootstrap.planning.measure import measure_steps
    from blip_bootstrap.query.formats import render, terminal_encoding

    loaded = load_config(config, settings or [], root=root)
    costs, disk_bytes_per_s = measure_steps(loaded, sample, limit_s, lambda line: typer.echo(line, err=True))
    planned = plan_steps(costs, images, workers, disk_bytes_per_s)
    if as_json:
        steps = planned.to_pylist()
        typer.echo(json.dumps({"images": images, "workers": workers, "steps": steps[:-1], "all": steps[-1]}))
        return
    typer.echo(render(for_people(planned), "table", encoding=terminal_encoding()), nl=False)
    typer.echo(
        "One round. Not in it: round 0 before the first one, and what the network does when all workers fetch.",
        err=True,
    )
