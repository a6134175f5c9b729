"""Texts as BLIP's released code shows them to a model: what is done, and by whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from blip_bootstrap.config import TextConfig
from blip_training.checkpoint.fresh import vqa_from_med
from blip_training.checkpoint.store import load_any, load_med, save_captioner, save_filter, save_med, save_vqa
from blip_training.data.normalise import (
    captions_as_seen,
    normalise_caption,
    normalise_question,
    questions_as_seen,
    set_normalise,
)
from blip_training.data.tokenizer import Tokenizer
from blip_training.objective.micro_batches import encode_texts
from tests.support.tiny_med import WORDS, original_weights, tiny


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("A Dog.", "a dog"),
        ("IMG_2041.jpg", "img_2041 jpg"),
        ('"Best"  price!!! (new) #1 *sale* 10:30; ~50%', "best price new 1 sale 10 30 50%"),
        ("it's black-and-white, isn't it? / yes", "it's black-and-white, isn't it? / yes"),
        ("\ttab\nand  line \u3000end ", "tab and line end"),
        ("ÄÖÜ Émile", "äöü émile"),
        ("...", ""),
        ("", ""),
        (" ".join(f"W{i}" for i in range(40)), " ".join(f"w{i}" for i in range(30))),
        ("a.b " * 20, " ".join("a b" for _ in range(15))),
    ],
)
def test_captions(given: str, seen: str) -> None:
    assert normalise_caption(given) == seen
    assert normalise_caption(seen) == seen


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("What is it?", "what is it?"),
        ("Is it 10:30 a.m.?", "is it 1030 am?"),
        ("  (Where)  IS he! ", "where is he"),
        (" ".join("Q" for _ in range(60)), " ".join("q" for _ in range(50))),
    ],
)
def test_questions(given: str, seen: str) -> None:
    assert normalise_question(given) == seen


def test_only_where_the_model_was_trained_so() -> None:
    given = ["A Dog.", "W!"]
    assert captions_as_seen(TextConfig(), given) == questions_as_seen(TextConfig(), given) == given
    assert captions_as_seen(TextConfig(normalise="blip"), given) == ["a dog", "w"]


def normalises(source: Path) -> str:
    return load_any(source)[0].config.text.normalise


def test_given_blips_see_normalised_texts_and_own_models_what_they_were_trained_on(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WORDS)
    med = tiny(tokenizer)
    save_med(tmp_path / "own", med, tokenizer)
    for name, save in (("captioner", save_captioner), ("filter", save_filter)):
        save(tmp_path / name, med, tokenizer)
        assert normalises(tmp_path / name) == "none"
        (tmp_path / name / "med.json").unlink()  # as transformers writes it
        assert normalises(tmp_path / name) == "blip"
    save_vqa(tmp_path / "vqa", vqa_from_med(med), tokenizer)
    (tmp_path / "vqa" / "med.json").unlink()
    torch.save(original_weights(med, tmp_path, tokenizer), tmp_path / "model.pth")
    tokenizer.save(tmp_path)
    assert [normalises(tmp_path / name) for name in ("own", "vqa", "model.pth")] == ["none", "blip", "blip"]

    given, _ = load_med(tmp_path / "filter")
    save_filter(tmp_path / "again", given, tokenizer)
    assert normalises(tmp_path / "again") == "blip"
    set_normalise(given, "auto")
    assert given.config.text.normalise == "blip"
    set_normalise(given, "none")
    text: Any = given.config.text  # mypy does not see that it changed
    assert text.normalise == "none"


def test_a_given_blip_with_a_cased_vocabulary_keeps_its_case(tmp_path: Path) -> None:
    tokenizer = Tokenizer([*WORDS, "Berlin", "berlin"], lower_case=False)
    save_filter(tmp_path, tiny(tokenizer), tokenizer)
    (tmp_path / "med.json").unlink()
    med, loaded = load_med(tmp_path)
    assert med.config.text.normalise == "none"
    assert loaded.encode(["Berlin"], 9)[0].tolist() == tokenizer.encode(["Berlin"], 9)[0].tolist()


def test_the_prompt_is_no_part_of_the_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer([*WORDS, ":", "."])
    med = tiny(tokenizer)
    set_normalise(med, "blip")
    ids, _ = encode_texts(med, tokenizer, ["W3. w4", "W5!"], "A picture:")
    wanted, _ = tokenizer.encode(["a picture: w3 w4", "a picture: w5"], 30)
    assert ids.tolist() == wanted.tolist()
    long = encode_texts(med, tokenizer, [" ".join(["w1"] * 40)])[0]
    assert long.shape == (1, 30)


def test_the_setting_is_kept_in_a_saved_model(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WORDS)
    med = tiny(tokenizer)
    set_normalise(med, "blip")
    save_captioner(tmp_path, med, tokenizer)
    assert json.loads((tmp_path / "med.json").read_text())["model"]["text"]["normalise"] == "blip"
    assert normalises(tmp_path) == "blip"
