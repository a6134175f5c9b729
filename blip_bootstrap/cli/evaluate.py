"""`blip-bootstrap evaluate`: a model's figures on a public benchmark, or on pictures of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from blip_bootstrap.cli.options import ConfigFile, Settings, load, say
from blip_bootstrap.ending import ended_early
from blip_bootstrap.paths import model_argument, path_argument
from blip_bootstrap.query.formats import print_table

GOES_ON = "the same command goes on from the last finished part"

commands = typer.Typer(rich_markup_mode="markdown")


@commands.command(
    epilog="Example: `blip-bootstrap evaluate Salesforce/blip-itm-base-coco --on coco --data ~/coco`. Names after "
    "`--on`: coco, flickr30k, nocaps, vqav2, nlvr2, msrvtt, msvd, msrvtt_qa, msvd_qa; and for JSON lines of one's own, "
    "with --data naming the file: captions, questions, two_images, videos, video_questions."
)
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            parser=model_argument,
            metavar="MODEL",
            help="A folder of this package or of transformers, a .pth file of BLIP's authors, or a hub name.",
        ),
    ],
    on: Annotated[str, typer.Option("--on", metavar="NAME", help="The benchmark.")],
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            parser=path_argument,
            metavar="PATH",
            help="Folder with the benchmark's lists and pictures as its publisher ships them, or the list itself.",
        ),
    ] = Path(),
    out: Annotated[
        Path,
        typer.Option(
            "--out", parser=path_argument, metavar="PATH", help="Folder for results and for what is kept meanwhile."
        ),
    ] = Path("runs/evaluate"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON, not a table.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first so many pictures, videos or questions.")
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Measure a model on a benchmark, in the paper's way: captions, retrieval, questions, NLVR2, videos.

    Its settings are the sections `benchmark` and `vqa` of the configuration.
    """
    from blip_training.benchmarks.evaluate_on import measure  # loads torch

    with ended_early(GOES_ON):
        result = measure(model, on, data, load(config, None, settings), out, limit)
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    print_table(table_of(result["figures"]))
    say(f"{result['items']:,} items, {result['seconds']:,.0f} s; {result['path']}")


def table_of(figures: Mapping[str, Any]) -> pa.Table:
    """Figures as a table, a row for each name, shares in per cent."""
    counted = [name for name in figures if "_mdr" in name or name.startswith("cider")]
    shown = [round(value if name in counted else 100 * value, 3) for name, value in figures.items()]
    units = ["rank" if "_mdr" in name else "" if name in counted else "%" for name in figures]
    return pa.table({"figure": list(figures), "value": shown, "unit": units})
