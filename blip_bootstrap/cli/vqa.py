"""`blip-bootstrap vqa`: fine-tune a model to answer questions about pictures, and ask it (section 5.4)."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from blip_bootstrap.cli.listing import ListedCommands
from blip_bootstrap.cli.options import ConfigFile, Settings, load, say
from blip_bootstrap.ending import ended_early
from blip_bootstrap.loop.vqa import answer_vqa, train_vqa
from blip_bootstrap.paths import model_argument, path_argument, run_argument
from blip_bootstrap.query.formats import write_file
from blip_bootstrap.storage.remote import opened
from blip_bootstrap.stores.store import shown

GOES_ON = "the same command goes on from the last checkpoint"

Questions = Annotated[
    Path,
    typer.Argument(
        parser=path_argument,
        metavar="QUESTIONS",
        help="JSON lines with image, question, and answers: [text, ...] or {text: count}.",
    ),
]

ImageRoot = Annotated[
    Path | None,
    typer.Option(
        "--image-root", parser=path_argument, metavar="PATH", help="Folder of the pictures. Default: that of the list."
    ),
]

vqa_app = typer.Typer(
    cls=ListedCommands,
    help="Fine-tune a model to answer questions about pictures, and ask it.",
    no_args_is_help=True,
)

commands = typer.Typer(rich_markup_mode="markdown")

commands.add_typer(vqa_app, name="vqa")


class Mode(StrEnum):
    """How `vqa answer` finds an answer."""

    generate = "generate"
    rank = "rank"


@vqa_app.command(epilog="Example: `blip-bootstrap vqa train runs/mine/round-01/model questions.jsonl --out runs/vqa`")
def train(
    start: Annotated[
        str,
        typer.Argument(
            parser=model_argument,
            metavar="MODEL",
            help="The model to start from: a folder, a .pth file or a hub name.",
        ),
    ],
    questions: Questions,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            parser=run_argument,
            metavar="PATH",
            help="Folder for the model, or s3:// or gs://; a run that was stopped goes on from its checkpoint there.",
        ),
    ],
    image_root: ImageRoot = None,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Fine-tune a pre-trained model, or one that answers already, on questions with people's answers.

    Its settings are the section `vqa` of the configuration.
    """
    with ended_early(GOES_ON):
        out = opened(out, make=True)
        counts = train_vqa(start, questions, out, image_root, load(config, None, settings), say)
    if counts is None:
        say(f"{out}: made already by these settings")
        return
    say(json.dumps(counts))
    typer.echo(shown(str(out)))


@vqa_app.command(epilog="Example: `blip-bootstrap vqa answer runs/vqa questions.jsonl --mode rank --answers list.txt`")
def answer(
    model: Annotated[
        str,
        typer.Argument(
            parser=model_argument, metavar="MODEL", help="A model that answers: a folder, a .pth file or a hub name."
        ),
    ],
    questions: Questions,
    mode: Annotated[
        Mode, typer.Option("--mode", help="generate: write answers; rank: choose from --answers.")
    ] = Mode.generate,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers",
            parser=path_argument,
            metavar="PATH",
            help="For rank: a file with one answer a line, or a JSON list.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", parser=path_argument, metavar="PATH", help="File for the JSON lines. Default: standard output."
        ),
    ] = None,
    image_root: ImageRoot = None,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Answer questions, one JSON line each; where people answered them, the VQA accuracy goes to standard error.

    Its settings are the section `vqa` of the configuration.
    """
    with ended_early("nothing was written"):
        loaded = load(config, None, settings)
        lines, figures = answer_vqa(model, questions, image_root, loaded, mode.value, answers, out, say)
    if out:
        write_file(out, lines.encode())
    else:
        typer.echo(lines, nl=False)
    say(figures)
