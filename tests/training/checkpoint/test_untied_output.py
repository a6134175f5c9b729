"""Captioners and models for questions whose output layer is a tensor of its own, against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blip_bootstrap.errors import CheckpointError
from blip_training.checkpoint.cast import cast_products
from blip_training.checkpoint.store import load_any, load_med, save_captioner, save_med, save_vqa
from blip_training.data.tokenizer import Tokenizer
from tests.support.tiny_med import WORDS, original_weights, randomise, read_by, tiny, transformers_config

HEAD = "text_decoder.cls.predictions."
EMBEDDINGS = "text_decoder.bert.embeddings.word_embeddings.weight"
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(WORDS)


def save_theirs(folder: Path, tokenizer: Tokenizer, kind: str = "BlipForConditionalGeneration") -> Weights:
    import transformers

    theirs = getattr(transformers, kind)(transformers_config(tokenizer)).eval()
    randomise(theirs)
    theirs.save_pretrained(folder)
    tokenizer.save(folder)
    return load_file(folder / "model.safetensors")


def untie(weights: Weights) -> None:
    weights[HEAD + "decoder.weight"] = torch.randn_like(weights[EMBEDDINGS]) * 0.3


def two_biases(weights: Weights) -> None:
    weights[HEAD + "decoder.bias"] = weights[HEAD + "bias"] + torch.randn_like(weights[HEAD + "bias"])


def decoder_bias_alone(weights: Weights) -> None:
    weights[HEAD + "decoder.bias"] = weights.pop(HEAD + "bias")


def untied_with_decoder_bias_alone(weights: Weights) -> None:
    untie(weights)
    decoder_bias_alone(weights)


def copies_of_what_is_tied(weights: Weights) -> None:
    weights[HEAD + "decoder.weight"] = weights[EMBEDDINGS].clone()
    weights[HEAD + "decoder.bias"] = weights[HEAD + "bias"].clone()


def the_output_layer_under_its_own_name_alone(weights: Weights) -> None:
    weights[HEAD + "decoder.weight"] = weights.pop(EMBEDDINGS)


def logits_of(theirs: Any, med: Any, tokenizer: Tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Theirs and ours of the same image states."""
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    ids, mask = tokenizer.encode(["a picture of w3 w9", "a w1 w4 w5 w6"], 30, "[DEC]")
    states = med.encode_image(pixels)
    return theirs.text_decoder(ids, encoder_hidden_states=states).logits, med.decode(states, ids, mask)


@torch.no_grad()
@pytest.mark.parametrize(
    ("change", "tied"),
    [
        (untie, False), (two_biases, True), (decoder_bias_alone, True), (untied_with_decoder_bias_alone, False),
        (copies_of_what_is_tied, True), (the_output_layer_under_its_own_name_alone, True),
    ],
)  # fmt: skip
def test_a_captioner_writes_what_transformers_writes_with_it(
    tmp_path: Path, tokenizer: Tokenizer, change: Any, tied: bool
) -> None:
    from transformers import BlipForConditionalGeneration

    weights = save_theirs(tmp_path / "theirs", tokenizer)
    change(weights)
    save_file(weights, tmp_path / "theirs" / "model.safetensors", {"format": "pt"})
    theirs = BlipForConditionalGeneration.from_pretrained(tmp_path / "theirs").eval()
    med, _ = load_med(tmp_path / "theirs")
    assert med.config.text.tied_output is tied
    wanted, found = logits_of(theirs, med, tokenizer)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)

    save_captioner(tmp_path / "again", med, tokenizer)
    again = read_by(BlipForConditionalGeneration, tmp_path / "again")
    torch.testing.assert_close(logits_of(again, med, tokenizer)[0], wanted, atol=1e-5, rtol=1e-5)
    loaded, _ = load_med(tmp_path / "again")
    assert torch.equal(logits_of(again, loaded, tokenizer)[1], found)


@torch.no_grad()
def test_a_model_for_questions_keeps_its_own_output_layer(tmp_path: Path, tokenizer: Tokenizer) -> None:
    from transformers import BlipForQuestionAnswering

    weights = save_theirs(tmp_path / "theirs", tokenizer, "BlipForQuestionAnswering")
    untie(weights)
    save_file(weights, tmp_path / "theirs" / "model.safetensors", {"format": "pt"})
    vqa: Any
    vqa, _ = load_any(tmp_path / "theirs")
    save_vqa(tmp_path / "again", vqa, tokenizer)
    again = BlipForQuestionAnswering.from_pretrained(tmp_path / "again")
    assert torch.equal(again.text_decoder.cls.predictions.decoder.weight, weights[HEAD + "decoder.weight"])
    assert torch.equal(vqa.text.lm_head.output.weight, weights[HEAD + "decoder.weight"])


@torch.no_grad()
def test_own_format_and_bfloat16_keep_it(tmp_path: Path, tokenizer: Tokenizer) -> None:
    text = {"width": 128, "depth": 2, "heads": 2, "intermediate": 96, "max_positions": 40, "tied_output": False}
    med = tiny(tokenizer, text=text)
    save_med(tmp_path, med, tokenizer)
    loaded, _ = load_med(tmp_path)
    assert loaded.text.lm_head.output is not None
    assert torch.equal(loaded.text.lm_head.output.weight, med.text.lm_head.output.weight)  # type: ignore[union-attr]
    assert not torch.equal(loaded.text.lm_head.output.weight, loaded.text.embeddings.of("causal").words.weight)
    cast_products(loaded)
    assert loaded.text.lm_head.output.weight.dtype == torch.bfloat16


@torch.no_grad()
def test_an_original_file_keeps_it(tmp_path: Path, tokenizer: Tokenizer) -> None:
    weights = original_weights(tiny(tokenizer), tmp_path, tokenizer)
    untie(weights)
    torch.save({"model": weights}, tmp_path / "model.pth")
    tokenizer.save(tmp_path)
    med, _ = load_med(tmp_path / "model.pth")
    assert torch.equal(med.text.lm_head.output.weight, weights[HEAD + "decoder.weight"])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "part", ["crossattention.self.key.weight", "output.LayerNorm.bias", "crossattention.output.dense.bias"]
)
def test_two_stacks_that_differ_anywhere_stay_two(tmp_path: Path, tokenizer: Tokenizer, part: str) -> None:
    weights = original_weights(tiny(tokenizer), tmp_path, tokenizer)
    name = f"encoder.layer.1.{part}"
    changed = weights["text_encoder." + name] = weights["text_encoder." + name] + 1
    torch.save({"model": weights}, tmp_path / "model.pth")
    tokenizer.save(tmp_path)
    med, _ = load_med(tmp_path / "model.pth")
    assert med.config.share == "none"
    (tmp_path / "out").mkdir()
    assert torch.equal(original_weights(med, tmp_path / "out", tokenizer)["text_encoder." + name], changed)
    assert torch.equal(
        original_weights(med, tmp_path / "out", tokenizer)["text_decoder.bert." + name],
        weights["text_decoder.bert." + name],
    )


def test_an_output_layer_that_should_be_there_is_missed(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_theirs(tmp_path, tokenizer)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(CheckpointError, match=r"tie_word_embeddings is false, and .*decoder\.weight is missing"):
        load_med(tmp_path)
