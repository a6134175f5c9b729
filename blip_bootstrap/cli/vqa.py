"""`blip-bootstrap vqa`: fine-tune a model to answer questions about pictures, and ask it (section 5.4)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blip_bootstrap.ending import ended_early
from blip_bootstrap.errors import InputError
from blip_bootstrap.loop.vqa import CHECKPOINT, MODEL, check_folder, keep_recipe
from blip_bootstrap.paths import model_argument, path_argument

if TYPE_CHECKING:
    from blip_bootstrap.config import VqaConfig


GOES_ON = "the same command goes on from the last checkpoint"

Questions = Annotated[
    Path,
    typer.Argument(
        parser=path_argument,
        metavar="QUESTIONS",
        help="JSON lines: image, question, answers (texts, or text to count).",
    ),
]

ImageRoot = Annotated[
    Path | None,
    typer.Option(
        "--image-root", parser=path_argument, metavar="PATH", help="Folder of the pictures. Default: the list's."
    ),
]

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", parser=path_argument, metavar="PATH", help="YAML file; its section `vqa` counts."),
]

Settings = Annotated[list[str] | None, typer.Option("--set", help="One setting, as `vqa.optimizer.steps=2000`.")]

vqa_app = typer.Typer(help="Answer questions about pictures: fine-tune a model, and ask it.", no_args_is_help=True)


class Mode(StrEnum):
    """How `vqa answer` finds an answer."""

    generate = "generate"
    rank = "rank"


@vqa_app.command(epilog="Example: `blip-bootstrap vqa train runs/mine/round-01/model questions.jsonl --out runs/vqa`")
def train(
    start: Annotated[
        str,
        typer.Argument(parser=model_argument, metavar="MODEL", help="Pre-trained model: folder, .pth or hub name."),
    ],
    questions: Questions,
    out: Annotated[
        Path,
        typer.Option(
            "--out", parser=path_argument, metavar="PATH", help="Where the model goes; a killed run goes on from there."
        ),
    ],
    image_root: ImageRoot = None,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Fine-tune a pre-trained model, or one that answers already, on questions with people's answers."""
    from blip_bootstrap.progress import Progress
    from blip_training.data.questions import check_pictures, read_questions
    from blip_training.train.finetune_vqa import check_vqa_start, finetune_vqa_model

    vqa = _load(config, settings)
    read = read_questions(questions, image_root)
    is_made = (out / MODEL).is_file() and not (out / CHECKPOINT).exists()
    if not is_made:
        check_vqa_start(start)
    check_pictures(read)
    keep_recipe(out, start, questions, image_root, vqa)
    if is_made:
        typer.echo(f"{out}: made already by these settings", err=True)
        return
    goes_on = (out / CHECKPOINT).exists()
    with ended_early(GOES_ON), _threads(vqa), Progress("vqa train", vqa.optimizer.steps, unit="steps") as progress:

        def show(step: int, figures: Mapping[str, float]) -> None:
            if goes_on and not progress.done:
                progress.begin(step)
            loss = {"loss": round(figures["lm"], 4)} if "lm" in figures else {}  # none where each step was skipped
            progress.update(step, **loss)

        counts = finetune_vqa_model(out, start, read, vqa, show)
    typer.echo(json.dumps(counts), err=True)
    typer.echo(str(out))


@vqa_app.command(epilog="Example: `blip-bootstrap vqa answer runs/vqa questions.jsonl --mode rank --answers list.txt`")
def answer(
    model: Annotated[
        str,
        typer.Argument(parser=model_argument, metavar="MODEL", help="A model that answers: folder, .pth or hub name."),
    ],
    questions: Questions,
    mode: Annotated[Mode, typer.Option("--mode", help="Write answers, or choose them from --answers.")] = Mode.generate,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers", parser=path_argument, metavar="PATH", help="rank: one answer a line, or a JSON list."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", parser=path_argument, metavar="PATH", help="JSON lines go here instead of standard output."
        ),
    ] = None,
    image_root: ImageRoot = None,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Answer questions, one JSON line each; where people's answers are given, the VQA accuracy on standard error."""
    from blip_training.checkpoint.store import load_vqa
    from blip_training.data.normalise import set_normalise
    from blip_training.data.questions import check_pictures, read_questions
    from blip_training.evaluate.vqa_answers import answer_figures
    from blip_training.runtime.workers import resolve_device

    vqa = _load(config, settings)
    candidates = _candidates(mode, answers)
    read = read_questions(questions, image_root, answered=False)
    check_folder(out)
    loaded = load_vqa(model, resolve_device(vqa.optimizer.device), vqa.image_size)
    check_pictures(read)
    set_normalise(loaded[0], vqa.normalise)
    with ended_early("nothing was written"), _threads(vqa):
        found = _ask(*loaded, read, vqa, mode.value, candidates)
    rows = [
        {"image": str(question.image), "question": question.text, "answer": text, "logprob": round(logprob, 6)}
        for question, (text, logprob) in zip(read, found, strict=True)
    ]
    _write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), out)
    typer.echo(_figures_line(answer_figures(read, [text for text, _ in found])), err=True)


def mount_vqa(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(vqa_app, name="vqa")


def _ask(
    model: Any, tokenizer: Any, questions: Sequence[Any], config: VqaConfig, mode: Any, candidates: Sequence[str]
) -> list[tuple[str, float]]:
    """Answers with their log-probabilities, a batch of questions at a time."""
    from blip_bootstrap.progress import Progress
    from blip_training.evaluate.vqa_answers import answer_questions

    found: list[tuple[str, float]] = []
    with Progress("vqa answer", len(questions), unit="questions") as progress:
        for start in range(0, len(questions), config.answer_batch_size):
            part = questions[start : start + config.answer_batch_size]
            answers = answer_questions(model, tokenizer, part, config, mode, candidates)
            found += [(answer.text, answer.logprob) for answer in answers]
            progress.advance(len(part))
    return found


def _figures_line(figures: Mapping[str, int | float]) -> str:
    if not figures["answered_by_people"]:
        return f"{figures['questions']} questions"
    asked, accuracy = f"{figures['questions']} questions, {figures['answered_by_people']}", f"{figures['accuracy']:.2%}"
    most_common = f"always the most common answer {figures['accuracy_of_most_common']:.2%}"
    return f"{asked} answered by people: VQA accuracy {accuracy}; {most_common}"


def _candidates(mode: Mode, file: Path | None) -> list[str]:
    """The answers to choose from, none where they are written. Raises InputError where mode and list do not fit."""
    if mode is Mode.generate and file is not None:
        raise InputError(f"--answers {file} is for --mode rank; --mode generate writes its own answers")
    if mode is Mode.rank and file is None:
        raise InputError("--mode rank chooses from a list; give it with --answers FILE, one answer a line")
    if file is None:
        return []
    from blip_training.data.questions import read_answers

    return read_answers(file)


def _load(path: Path | None, settings: list[str] | None) -> VqaConfig:
    """The section `vqa` from the command's options, its dtype resolved."""
    from blip_bootstrap.config import load_config
    from blip_pipelines.cluster.devices import resolve_dtypes

    loaded = load_config(path, settings or [])
    return resolve_dtypes(loaded, lambda line: typer.echo(line, err=True), ["vqa"]).vqa


def _write(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from error


@contextmanager
def _threads(config: VqaConfig) -> Iterator[None]:
    """torch's threads as configured; by default its own number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(config.optimizer.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
