"""From a tokenizer of any kind through pre-training and both fine-tunings: the same ids at every step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from blip_bootstrap.config import PretrainConfig
from blip_training.checkpoint.store import load_med
from blip_training.data.tokenizer import Tokenizer
from blip_training.train.finetune import finetune_captioner_model, finetune_filter_model
from blip_training.train.pretrain import pretrain_model
from tests.support.drawn import WORDS, finetune_config, optimizer_config, pretrain_config

PIECES = [*WORDS.split(), "Red", "schön", "schon", "\u2028", "\x85", "##\u2029"]
TEXTS = ["a Red circle", "schön schon SCHÖN", "a\u2028b [SEP]", "<spot> circle"]


def cased(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))


def accents_kept_by_tokenizer_json(folder: Path) -> None:
    from tokenizers import Tokenizer as Library
    from tokenizers import models, normalizers, pre_tokenizers

    library = Library(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(strip_accents=False)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.save(str(folder / "tokenizer.json"))


def added_tokens(folder: Path) -> None:
    added = {"<spot>": len(PIECES), "[DEC]": len(PIECES) + 1, "[ENC]": len(PIECES) + 2}
    (folder / "added_tokens.json").write_text(json.dumps(added))


@pytest.mark.parametrize("change", [lambda folder: None, cased, accents_kept_by_tokenizer_json, added_tokens])
def test_ids_are_the_same_from_the_first_to_the_last_model(
    world: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    given = tmp_path / "tokenizer"
    given.mkdir()
    (given / "vocab.txt").write_bytes("\n".join(PIECES).encode())
    change(given)
    first = Tokenizer.load(given)
    config = pretrain_config(world).model_dump()
    config["optimizer"] |= {"steps": 2, "warmup_steps": 0}
    config["model"]["text"] |= {"tokenizer": str(given), "tied_output": False, "normalise": "blip"}
    for name in ("model", "captioner", "filter"):
        (tmp_path / name).mkdir()
    pretrain_model(tmp_path / "model", None, None, world / "human", PretrainConfig.model_validate(config))
    short = finetune_config().model_copy(update={"optimizer": optimizer_config(steps=2, warmup_steps=0)})
    finetune_captioner_model(tmp_path / "captioner", tmp_path / "model", world / "human", short)
    finetune_filter_model(tmp_path / "filter", tmp_path / "model", world / "human", short)
    for name in ("model", "captioner", "filter"):
        med, tokenizer = load_med(tmp_path / name)
        assert tokenizer.encode(TEXTS, 30)[0].tolist() == first.encode(TEXTS, 30)[0].tolist()
        assert (tokenizer.vocabulary, tokenizer.dec_id, med.dec_id) == (first.vocabulary, first.dec_id, first.dec_id)
        assert med.config.text.normalise == "blip"
        assert (med.text.lm_head.output is None) == (name == "filter")
