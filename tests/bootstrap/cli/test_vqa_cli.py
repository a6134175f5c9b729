"""`blip-bootstrap vqa`: train, resume, answer both ways, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from blip_bootstrap.config import VqaConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.loop.vqa import candidates_of, check_folder, keep_recipe
from blip_training.checkpoint.store import save_med
from blip_training.data.questions import check_pictures, read_answers, read_questions
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.med import Med
from tests.support.drawn import WORDS, model_config
from tests.support.in_process import blip_here

SETTINGS = [
    "vqa.optimizer={steps: 4, batch_size: 4, lr: 0.001, warmup_steps: 0, device: cpu, threads: 1}", "vqa.augment=none",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures with a question each, and a model of random weights."""
    folder = tmp_path_factory.mktemp("vqa")
    rows = []
    for colour in ("red", "green", "blue", "yellow"):
        Image.new("RGB", (32, 32), colour).save(folder / f"{colour}.png")
        rows.append({"image": f"{colour}.png", "question": "what is it", "answers": [colour, "circle"]})
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "answers.txt").write_text("red\n green \n\nblue\nred\n")
    tokenizer = Tokenizer([*WORDS.split(), "what"])
    torch.manual_seed(0)
    save_med(folder / "model", Med(model_config(folder), tokenizer.num_tokens), tokenizer)
    return folder


def blip_bootstrap(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    sources = os.pathsep.join(str(Path(__file__).parents[3] / part) for part in (".", "pipelines", "training"))
    environment = os.environ | {"PYTHONPATH": sources, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "blip_bootstrap", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def test_train_and_answer(folder: Path, tmp_path: Path) -> None:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    train = ("vqa", "train", folder / "model", folder / "questions.jsonl", "--out", tmp_path / "vqa", *settings)
    made = blip_bootstrap(*train, cwd=tmp_path)
    assert (made.returncode, made.stdout.strip()) == (0, str(tmp_path / "vqa")), made.stderr
    assert (tmp_path / "vqa" / "model.safetensors").is_file()
    assert not (tmp_path / "vqa" / ".checkpoints").exists()

    answers = folder / "answers.txt"
    ask = ("vqa", "answer", tmp_path / "vqa", folder / "questions.jsonl")
    ranked = blip_here(*ask, "--mode", "rank", "--answers", answers, *settings)
    assert ranked.returncode == 0, ranked.stderr
    rows = [json.loads(line) for line in ranked.stdout.splitlines()]
    assert [row["question"] for row in rows] == ["what is it"] * 4
    assert {row["answer"] for row in rows} <= {"red", "green", "blue"}
    assert all(row["logprob"] < 0 for row in rows)
    assert "4 questions, 4 answered by people: VQA accuracy" in ranked.stderr

    refused = blip_here("vqa", "answer", folder / "model", folder / "questions.jsonl")
    assert refused.returncode == 2
    assert "cannot answer, only decode, embed, match" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_a_damaged_file_of_what_was_made_is_told_and_nothing_trained_anew(folder: Path, tmp_path: Path) -> None:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    train = ("vqa", "train", folder / "model", folder / "questions.jsonl", "--out", tmp_path / "vqa", *settings)
    assert blip_here(*train).returncode == 0
    weights, recipe = tmp_path / "vqa" / "model.safetensors", tmp_path / "vqa" / "recipe.json"
    whole = weights.read_bytes()
    for cut, told in ((None, "model.safetensors: missing; put it back from a copy"), (1000, "be read .*; put it back")):
        weights.unlink(missing_ok=True)
        if cut is not None:
            weights.write_bytes(whole[:cut])
        done = blip_here(*train)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert re.search(told, done.stderr)
        assert not (tmp_path / "vqa" / ".checkpoints").exists()
    weights.write_bytes(whole)
    assert "made already" in (done := blip_here(*train)).stderr, done
    recipe.write_text("")
    done = blip_here(*train)
    assert done.returncode == 2
    assert "recipe.json: not readable JSON" in done.stderr
    assert "; put it back from a copy, or give another --out" in done.stderr


def test_a_model_that_cannot_be_used_is_told_before_pictures_are_looked_at(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "model", tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    (tmp_path / "no_pictures.jsonl").write_text((folder / "questions.jsonl").read_text())
    for command in (("train", "--out", tmp_path / "out"), ("answer",)):
        name, *rest = command
        done = blip_here("vqa", name, tmp_path / "broken", tmp_path / "no_pictures.jsonl", *rest)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "model.safetensors: cannot be read" in done.stderr
    assert not (tmp_path / "out").exists()


def test_another_recipe_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    questions, config = folder / "questions.jsonl", VqaConfig()
    keep_recipe(tmp_path / "out", str(folder / "model"), questions, None, config)
    keep_recipe(tmp_path / "out", str(folder / "model"), questions, None, config)
    faster = config.model_copy(update={"answer_batch_size": 7})
    keep_recipe(tmp_path / "out", str(folder / "model"), questions, None, faster)
    other = config.model_copy(update={"augment": "none"})
    (tmp_path / "out/.checkpoints").mkdir()
    (tmp_path / "out/.checkpoints/checkpoint-00000100.pt").touch()
    with pytest.raises(InputError, match=r"begun with another recipe \(config\.augment differ\)"):
        keep_recipe(tmp_path / "out", str(folder / "model"), questions, None, other)
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "file").touch()
    with pytest.raises(InputError, match="not empty"):
        keep_recipe(tmp_path / "strange", str(folder / "model"), questions, None, config)


def test_the_closed_list(folder: Path, tmp_path: Path) -> None:
    assert read_answers(folder / "answers.txt") == ["red", "green", "blue"]
    (tmp_path / "answers.json").write_text('["a cat", "no"]')
    assert read_answers(tmp_path / "answers.json") == ["a cat", "no"]
    (tmp_path / "answers.json").write_text('["a\u2028cat", 2, null]')
    assert read_answers(tmp_path / "answers.json") == ["a cat", "2"]
    (tmp_path / "odd.txt").write_text("a\u2028cat\r\nno\u0085w\n", encoding="utf-8")
    assert read_answers(tmp_path / "odd.txt") == ["a cat", "no w"]
    for content, said in (
        ("{}", "a JSON list of texts"),
        ("[[1]]", r"\(a list of 1\)"),
        ("[" * 10**5, r"\(nested too deep\)"),
    ):
        (tmp_path / "answers.json").write_text(content)
        with pytest.raises(InputError, match=said):
            read_answers(tmp_path / "answers.json")
    with pytest.raises(InputError, match="give it with --answers FILE"):
        candidates_of("rank", None)
    with pytest.raises(InputError, match="is for --mode rank"):
        candidates_of("generate", folder / "answers.txt")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError, match="no answer in it"):
        read_answers(tmp_path / "empty.txt")


def test_what_came_to_nothing_binds_no_later_recipe(folder: Path, tmp_path: Path) -> None:
    """A mistyped start leaves a recipe and no checkpoint: the right one may take the same folder."""
    out, questions = tmp_path / "out", folder / "questions.jsonl"
    keep_recipe(out, "no-such-model", questions, None, VqaConfig())
    keep_recipe(out, str(folder / "model"), questions, None, VqaConfig())
    assert "no-such-model" not in (out / "recipe.json").read_text()


def test_missing_pictures_are_told_before_any_work(folder: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    lines[2]["image"] = lines[3]["image"] = "gone.png"
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    questions = read_questions(tmp_path / "asked.jsonl", folder)
    with pytest.raises(InputError, match=r"gone\.png is not there; 1 of 3 pictures are missing"):
        check_pictures(questions)
    check_pictures(questions[:2])


def test_a_file_that_cannot_be_written_is_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a folder; give a file"):
        check_folder(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        check_folder(tmp_path / "none" / "answers.jsonl")
    check_folder(tmp_path / "answers.jsonl")
