"""Visual question answering beside the loop: fine-tune a model on questions, and ask it (section 5.4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from blip_bootstrap.config import Config, VqaConfig
from blip_bootstrap.errors import CheckpointError, InputError, RunFailed
from blip_bootstrap.loop.check import note_on_warmup
from blip_bootstrap.progress import Progress
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.manifest import digest_of_path, recipe_of
from blip_bootstrap.storage.remote import AT_WORK
from blip_bootstrap.storage.run_folder import TRAIN_ANEW, flat, read_json
from blip_bootstrap.stores.store import LISTING, fetched
from blip_pipelines.cluster.devices import resolve_dtypes
from blip_training.data.questions import check_pictures, read_answers, read_questions
from blip_training.train.checkpoint_files import checkpoints_in, delete_checkpoints

Say = Callable[[str], None]

RECIPE = "recipe.json"

MODEL = "model.safetensors"
"""The last file of a model that is written: where it is, the model is whole."""

CONFIG = "config.json"
"""Written before the weights: where it is, the training came to its end."""

Mode = Literal["generate", "rank"]
"""How an answer is found: written by beam search, or chosen from a list."""


def train_vqa(
    start: str, questions: Path, out: Path, image_root: Path | None, config: Config, say: Say
) -> Mapping[str, int | float] | None:
    """Fine-tune `start` on the questions into `out`, from its last checkpoint on where a killed run has left one.

    `start` is a pre-trained model, or one that answers already. Returns the counts and figures of the training, None
    where `out` holds its model already. Raises InputError where questions or pictures cannot be read, or `out` was
    begun with another recipe; CheckpointError where `start` cannot be used; RunFailed where its model was made and is
    missing or damaged.
    """
    from blip_training.runtime.workers import threads  # loads torch
    from blip_training.train.finetune_vqa import check_vqa_start, finetune_vqa_model  # loads torch

    for line in note_on_warmup(config.vqa.optimizer, "vqa"):
        say(f"note: {line}")
    vqa = resolve_dtypes(config, say, ["vqa"]).vqa
    fetched(out)  # of a folder on a store: what another machine has made of it
    read = read_questions(questions, image_root)
    goes_on = bool(checkpoints_in(out))
    is_made = (out / MODEL).is_file() and not goes_on
    if not goes_on and (out / RECIPE).is_file() and any((out / name).is_file() for name in (MODEL, CONFIG)):
        _check_made(out, check_vqa_start)
    if not is_made:
        check_vqa_start(start)
    check_pictures(read)
    keep_recipe(out, start, questions, image_root, vqa)
    if is_made:
        return None
    with threads(vqa.optimizer.threads), Progress("vqa train", vqa.optimizer.steps, unit="steps") as progress:

        def show(step: int, figures: Mapping[str, float]) -> None:
            if goes_on and not progress.done:
                progress.begin(step)
            loss = {"loss": round(figures["lm"], 4)} if "lm" in figures else {}  # none where each step was skipped
            progress.update(step, **loss)

        counts = finetune_vqa_model(out, start, read, vqa, show)
    delete_checkpoints(out)  # the model is whole, and lies where it is to be
    return counts


def _check_made(out: Path, check: Callable[[Path], None]) -> None:
    """Raise RunFailed where a model that was made is missing or damaged: to make it anew may take days."""
    try:
        if not (out / MODEL).is_file():
            raise CheckpointError(f"{out / MODEL}: missing")
        check(out)
    except CheckpointError as error:
        raise RunFailed(f"{error}; {TRAIN_ANEW}") from error


def answer_vqa(
    model: str, questions: Path, image_root: Path | None, config: Config, mode: Mode, answers: Path | None,
    out: Path | None, say: Say,
) -> tuple[str, str]:  # fmt: skip
    """Answer the questions: JSON lines in their order, and a line of figures for people.

    `mode` rank chooses from the list in the file `answers`; generate writes. `out` is where the lines are to go: it is
    looked at before any work. Raises InputError where `mode` and `answers` do not fit, or a file cannot be read or
    written; CheckpointError where the model cannot answer.
    """
    from blip_training.evaluate.vqa_answers import answer_figures, answer_questions, open_vqa  # loads torch
    from blip_training.runtime.workers import threads  # loads torch

    vqa = resolve_dtypes(config, say, ["vqa"]).vqa
    candidates = candidates_of(mode, answers)
    read = read_questions(questions, image_root, answered=False)
    check_folder(out)
    opened = open_vqa(model, vqa)
    check_pictures(read)
    rows, texts = [], []
    with threads(vqa.optimizer.threads), Progress("vqa answer", len(read), unit="questions") as progress:
        for start in range(0, len(read), vqa.answer_batch_size):
            part = read[start : start + vqa.answer_batch_size]
            for question, found in zip(part, answer_questions(*opened, part, vqa, mode, candidates), strict=True):
                known = {"image": str(question.image), "question": question.text}
                rows.append(known | {"answer": found.text, "logprob": round(found.logprob, 6)})
                texts.append(found.text)
            progress.advance(len(part))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return lines, _in_words(answer_figures(read, texts))


def candidates_of(mode: Mode, file: Path | None) -> list[str]:
    """The answers to choose from, none where they are written. Raises InputError where mode and list do not fit."""
    if mode == "generate" and file is not None:
        raise InputError(f"--answers {file} is for --mode rank; --mode generate writes its own answers")
    if mode == "rank" and file is None:
        raise InputError("--mode rank chooses from a list; give it with --answers FILE, one answer a line")
    return read_answers(file) if file else []


def _in_words(figures: Mapping[str, int | float]) -> str:
    if not figures["answered_by_people"]:
        return f"{figures['questions']} questions"
    asked, accuracy = f"{figures['questions']} questions, {figures['answered_by_people']}", f"{figures['accuracy']:.2%}"
    most_common = f"always the most common answer {figures['accuracy_of_most_common']:.2%}"
    return f"{asked} answered by people: VQA accuracy {accuracy}; {most_common}"


def keep_recipe(out: Path, start: str, questions: Path, image_root: Path | None, config: VqaConfig) -> None:
    """Note in `out` what is made there. Raises InputError where it is begun or made by another recipe."""
    file = out / RECIPE
    inputs = {
        "start": digest_of_path(Path(start)) if Path(start).exists() else start,
        "questions": digest_of_path(questions),
        "image_root": str((image_root or questions.parent).resolve()),
    }
    recipe = recipe_of("vqa train", config, inputs)
    kept = read_json(file, "put it back from a copy, or give another --out")
    begun = (out / MODEL).exists() or bool(checkpoints_in(out))
    if kept is not None and kept != recipe and begun:
        was, now = flat(kept), flat(recipe)
        differs = ", ".join(sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name)))
        raise InputError(f"{out}: begun with another recipe ({differs} differ); give another --out, or delete it")
    if kept is None and out.is_dir() and any(not one.name.startswith((LISTING, AT_WORK)) for one in out.iterdir()):
        raise InputError(f"{out}: not empty, and not made by this command; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(recipe, indent=1))


def check_folder(out: Path | None) -> None:
    """Raise InputError where `out` cannot be written, before any work."""
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"{out}: {'a folder' if out.is_dir() else f'there is no folder {out.parent}'}; give a file")
