"""Fine-tuning for questions: it learns to look, resumes exactly, and keeps the best on validation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from blip_bootstrap.config import VqaConfig
from blip_bootstrap.errors import CheckpointError, InputError
from blip_training.checkpoint.store import load_vqa, save_captioner, save_med
from blip_training.data.questions import Question, read_questions
from blip_training.data.tokenizer import Tokenizer
from blip_training.evaluate.vqa_answers import answer_figures, answer_questions
from blip_training.model.med import Med
from blip_training.train.finetune_vqa import finetune_vqa_model, split_questions
from tests.support.drawn import COLOURS, WORDS, model_config, optimizer_config, read_log


def vqa_config(**changes: object) -> VqaConfig:
    """Optimizer settings by keyword."""
    return VqaConfig(optimizer=optimizer_config(**changes), label_smoothing=0.0, augment="none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vqa.jsonl: one or two questions about each of 24 pictures of one colour; model/: random weights."""
    folder = tmp_path_factory.mktemp("vqa")
    rows: list[dict[str, object]] = []
    for i in range(24):
        colour, name = list(COLOURS)[i % 4], f"{i + 20}.png"
        Image.new("RGB", (32, 32), COLOURS[colour]).save(folder / name)
        rows.append({"image": name, "question": "what colour is it", "answers": [colour]})
        if i % 4 == 0:
            rows.append({"image": name, "question": "is there a colour", "answers": {"there is": 9, "it is": 1}})
    (folder / "vqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = Tokenizer([*WORDS.split(), "what", "colour"])
    torch.manual_seed(0)
    med = Med(model_config(folder), tokenizer.num_tokens)
    save_med(folder / "model", med, tokenizer)
    save_captioner(folder / "captioner", med, tokenizer)
    return folder


@pytest.fixture(scope="module")
def questions(folder: Path) -> list[Question]:
    return read_questions(folder / "vqa.jsonl")


def test_without_a_step_nothing_is_validated(folder: Path, questions: list[Question], tmp_path: Path) -> None:
    config = vqa_config(steps=0).model_copy(update={"validate_every_steps": 2})
    counts = finetune_vqa_model(tmp_path, folder / "model", questions, config)
    assert counts["steps"] == 0
    assert "best_step" not in counts


def test_it_learns_to_answer_by_looking(folder: Path, questions: list[Question], tmp_path: Path) -> None:
    config = vqa_config(steps=100, lr=4e-3)
    counts = finetune_vqa_model(tmp_path, folder / "model", questions, config)
    log = read_log(tmp_path)
    assert counts["questions"] == 30
    assert counts["lm"] < 0.3 * log[0]["lm"]
    assert set(log[0]) == {"step", "loss", "lm", "lr", "grad_norm"}
    vqa, tokenizer = load_vqa(tmp_path)
    candidates = [*COLOURS, "there is", "it is"]
    for mode in ("generate", "rank"):
        answers = answer_questions(vqa, tokenizer, questions, config, mode, candidates)
        figures = answer_figures(questions, [answer.text for answer in answers])
        assert figures["accuracy"] > 0.9
        assert figures["accuracy_of_most_common"] < 0.5


def test_a_killed_fine_tune_goes_on_with_the_same_losses(
    folder: Path, questions: list[Question], tmp_path: Path
) -> None:
    config = vqa_config(steps=6, checkpoint_every_steps=2, accumulate=2).model_copy(update={"validate_every_steps": 2})

    def kill(step: int, figures: object) -> None:
        if step == 5:
            raise KeyboardInterrupt

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for out in (straight, killed):
        out.mkdir()
    expected = finetune_vqa_model(straight, folder / "model", questions, config)
    with pytest.raises(KeyboardInterrupt):
        finetune_vqa_model(killed, folder / "model", questions, config, kill)
    counts = finetune_vqa_model(killed, folder / "model", questions, config)
    assert read_log(killed) == read_log(straight)
    assert {name: counts[name] for name in ("best_step", "validation_loss", "questions")} == {
        name: expected[name] for name in ("best_step", "validation_loss", "questions")
    }
    mine, yours = load_vqa(killed)[0].state_dict(), load_vqa(straight)[0].state_dict()
    assert all(torch.equal(mine[name], yours[name]) for name in yours)


def test_it_goes_on_from_a_model_that_answers(folder: Path, questions: list[Question], tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    config = vqa_config(steps=8)
    first = finetune_vqa_model(tmp_path / "first", folder / "model", questions, config)
    (tmp_path / "second").mkdir()
    finetune_vqa_model(tmp_path / "second", tmp_path / "first", questions, config)
    assert read_log(tmp_path / "second")[0]["lm"] < read_log(tmp_path / "first")[0]["lm"]
    assert first["lm"] < read_log(tmp_path / "first")[0]["lm"]


def test_pictures_are_in_one_part_only(questions: list[Question]) -> None:
    train, validation = split_questions(questions)
    assert len(train) + len(validation) == len(questions)
    assert not {q.image for q in train} & {q.image for q in validation}
    with pytest.raises(InputError, match="0 of 1; give more pictures"):
        split_questions(questions[:2])


def test_a_captioner_is_no_start(folder: Path, questions: list[Question], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot match"):
        finetune_vqa_model(tmp_path, folder / "captioner", questions, vqa_config(steps=1))
