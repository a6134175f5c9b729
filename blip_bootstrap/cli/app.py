"""The commands by name, with the modules that they are imported from when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import typer

from blip_bootstrap import __version__
from blip_bootstrap.cli.listing import Listed, ListedCommands


class Commands(ListedCommands):
    """All commands. Each help is the first line of the command's own."""

    listed: ClassVar[Mapping[str, Listed]] = {
        "run": Listed(
            "blip_bootstrap.cli.run", "Run CapFilt up to a round; makes only what is missing or out of date."
        ),
        "demo": Listed(
            "blip_bootstrap.cli.demo",
            "Run two CapFilt rounds on a drawn world, with a web server that also fails; takes minutes and needs no "
            "data.",
        ),
        "status": Listed(
            "blip_bootstrap.cli.status",
            "Tell how far a run is, while it is at work or not: step, who works on it, rate, failures, time left.",
        ),
        "sql": Listed(
            "blip_bootstrap.cli.sql",
            "Ask DuckDB about the views of a run, as `images`, `captions` and `pairs`; nothing can be changed.",
        ),
        "report": Listed(
            "blip_bootstrap.cli.report",
            "Write the page of a round again; without --round the last one's, and that over all rounds. Prints their "
            "paths.",
        ),
        "why": Listed(
            "blip_bootstrap.cli.explain",
            "Show all that is known of one image: its fetch, and its texts in every round with scores and verdicts.",
        ),
        "diff": Listed(
            "blip_bootstrap.cli.explain",
            "Show what changed between two rounds, or between rounds of two runs: texts, reasons, noise, settings.",
        ),
        "export": Listed(
            "blip_bootstrap.cli.export",
            "Write what a round kept as webdataset, for Hugging Face, as BLIP's or COCO's JSON, uids or Parquet.",
        ),
        "plan": Listed(
            "blip_bootstrap.cli.plan",
            "Measure this machine on a small sample; print rows, disk, time and memory of a round over many images.",
        ),
        "conformance": Listed(
            "blip_bootstrap.cli.conformance",
            "Check a captioner or judge on drawn pictures: the same at any batch size, order, process, kill, as it "
            "promises.",
        ),
        "config": Listed("blip_bootstrap.cli.config", "Show or check the configuration."),
        "audit": Listed(
            "blip_bootstrap.cli.audit",
            "Show what was kept and dropped, why, and how noisy each source is; or label texts, and what labels say.",
        ),
        "artifacts": Listed(
            "blip_bootstrap.cli.artifacts",
            "List what steps have made: by which round it is used, step, recipe digest, rows, size, state.",
        ),
        "gc": Listed(
            "blip_bootstrap.cli.gc",
            "List what no round points to, with its size and age; with --delete, delete it.",
        ),
        "forget": Listed(
            "blip_bootstrap.cli.forget",
            "Take pictures out of a run for good, with their texts and URLs, wherever it has them; no list brings them "
            "back.",
        ),
        "evaluate": Listed(
            "blip_bootstrap.cli.evaluate",
            "Measure a model on a benchmark, in the paper's way: captions, retrieval, questions, NLVR2, videos.",
        ),
        "experiment": Listed(
            "blip_bootstrap.cli.experiment",
            "Run arms over seeds with one budget, sharing what they share; tells means, and differences with "
            "intervals.",
        ),
        "vqa": Listed("blip_bootstrap.cli.vqa", "Fine-tune a model to answer questions about pictures, and ask it."),
    }


app = typer.Typer(
    cls=Commands,
    help="CapFilt, closed: download, caption, filter and audit noisy web image-text pairs, and train on what is left.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
