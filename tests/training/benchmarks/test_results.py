"""Results that are there: found again by what decides them, made anew where that changed or they are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from blip_bootstrap.config import Config
from blip_bootstrap.errors import CheckpointError
from blip_training.benchmarks.evaluate_on import measure
from blip_training.checkpoint.store import load_med, save_captioner, save_vqa
from blip_training.data.tokenizer import Tokenizer
from tests.support.benchmark_files import write_coco, write_vqav2
from tests.support.tiny_med import WORDS, original_weights, tiny
from tests.support.tiny_vqa import WORDS as VQA_WORDS
from tests.support.tiny_vqa import tiny_vqa


def config(**changes: Any) -> Config:
    return Config.model_validate({"benchmark": {"device": "cpu", "meteor": False, "batch_size": 4} | changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer, of_vqa = tmp_path_factory.mktemp("results"), Tokenizer(WORDS), Tokenizer(VQA_WORDS)
    save_captioner(folder / "captioner", tiny(tokenizer), tokenizer)
    save_vqa(folder / "vqa", tiny_vqa(of_vqa), of_vqa)
    write_coco(folder / "coco", 3)
    write_vqav2(folder / "vqav2", 2, 4)
    return folder


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"figures": {'])
def test_a_damaged_result_is_made_anew(folder: Path, tmp_path: Path, content: str) -> None:
    whole = measure(folder / "captioner", "coco", folder / "coco", config(), tmp_path)
    Path(whole["path"]).write_text(content)
    again = measure(folder / "captioner", "coco", folder / "coco", config(), tmp_path)
    assert again["figures"] == whole["figures"]
    assert json.loads(Path(whole["path"]).read_text()) == again


@pytest.mark.parametrize("content", ['["one"]', '{"a": 1}', "[", "3"])
def test_a_damaged_part_is_made_anew(folder: Path, tmp_path: Path, content: str) -> None:
    whole = measure(folder / "captioner", "coco", folder / "coco", config(), tmp_path)
    result = Path(whole["path"])
    result.unlink()
    (part,) = (result.parent / "work").iterdir()
    written = part.read_text()
    part.write_text(content)
    assert measure(folder / "captioner", "coco", folder / "coco", config(), tmp_path)["figures"] == whole["figures"]
    assert part.read_text() == written


def test_another_list_of_answers_has_another_result(folder: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.json"
    how = config(mode="rank", answers=str(answers))
    found = []
    for texts in (["w1", "w2"], ["w3", "w4 w5"]):
        answers.write_text(json.dumps(texts))
        result = measure(folder / "vqa", "vqav2", folder / "vqav2", how, tmp_path / "out")
        assert result["lists"][-1] == "answers.json"
        written = [json.loads(line) for line in Path(result["path"]).with_name("vqa.jsonl").read_text().splitlines()]
        assert {row["answer"] for row in written} <= set(texts)
        found.append(result["data_digest"])
    assert found[0] != found[1]


def test_another_tokenizer_beside_a_file_of_weights_has_another_result(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(WORDS)
    file = tmp_path / "model_base_caption.pth"
    weights = original_weights(tiny(tokenizer), tmp_path / "parts", tokenizer)
    torch.save({"model": {k: w for k, w in weights.items() if k.startswith(("visual_enc", "text_decoder"))}}, file)
    paths = []
    for words in (WORDS, [*WORDS[:7], *reversed(WORDS[7:])]):
        Tokenizer(words).save(tmp_path)
        paths.append(measure(file, "coco", folder / "coco", config(), tmp_path / "out")["path"])
    assert paths[0] != paths[1]


def test_a_model_of_two_pictures_says_what_it_is_for(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WORDS)
    weights = original_weights(tiny(tokenizer), tmp_path / "parts", tokenizer)
    torch.save({"model": weights | {"cls_head.0.weight": torch.zeros(128, 128)}}, tmp_path / "model_base_nlvr.pth")
    with pytest.raises(CheckpointError, match=r"judges sentences about two pictures \(`evaluate --on nlvr2`\)"):
        load_med(tmp_path / "model_base_nlvr.pth")
