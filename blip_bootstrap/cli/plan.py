"""`blip-bootstrap plan`: what a run over N images will cost, measured on a sample of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated

import pyarrow as pa
import typer

from blip_bootstrap.cli.options import ConfigFile, NewRoot, Settings, load, say
from blip_bootstrap.planning import cost, measure, pretraining
from blip_bootstrap.planning.pretraining import Cluster, Pictures
from blip_bootstrap.planning.vocabulary import planned_tokens
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
    limit_s: Annotated[
        float, typer.Option("--limit-s", min=0, help="Seconds that captioning the sample may take.")
    ] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=1, help="Work out the pre-training on so many GPUs; measure nothing.")
    ] = None,
    gpu: Annotated[str, typer.Option("--gpu", help="--gpus: their kind, as H100.")] = "H100",
    mfu: Annotated[float, typer.Option("--mfu", min=0.01, max=1, help="--gpus: share of their peak.")] = 0.35,
    samples_per_s: Annotated[
        float | None, typer.Option("--samples-per-s", min=0.001, help="--gpus: of one GPU, where it was measured.")
    ] = None,
    node_gbit: Annotated[float, typer.Option("--node-gbit", min=0.1, help="--gpus: network of 8 GPUs, Gbit/s.")] = 400,
    image_kb: Annotated[float, typer.Option("--image-kb", min=0.1, help="--gpus: a stored picture, kB.")] = 30,
    decode_ms: Annotated[
        float, typer.Option("--decode-ms", min=0.01, help="--gpus: core time to decode and augment a picture, ms.")
    ] = 4.4,
) -> None:
    """Measure this machine on a small sample; print rows, disk, time and memory of a round over many images."""
    if gpus is not None:
        cluster = Cluster(gpus, gpu, mfu, node_gbit, samples_per_s)
        pictures = Pictures(images, image_kb * 1000, decode_ms)
        loaded = load(config, root, settings)
        num_tokens = planned_tokens(loaded, say)
        _say_pretraining(pretraining.work_out(loaded.pretrain, cluster, pictures, num_tokens), as_json)
        return
    costs, disk_bytes_per_s = measure.measure_steps(load(config, root, settings), sample, limit_s, say)
    planned = cost.plan_steps(costs, images, workers, disk_bytes_per_s)
    if as_json:
        steps = planned.to_pylist()
        typer.echo(json.dumps({"images": images, "workers": workers, "steps": steps[:-1], "all": steps[-1]}))
        return
    typer.echo(render(cost.for_people(planned), "table", encoding=terminal_encoding()), nl=False)
    say("One round. Not in it: round 0 before the first one, and what the network does when all workers fetch.")


def _say_pretraining(found: Mapping[str, float | str], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = pa.Table.from_pylist(pretraining.for_people(found))
    typer.echo(render(table, "table", encoding=terminal_encoding()), nl=False)
    say("One pre-training, worked out and not measured.")
