"""Models for questions on disk: parity with transformers in both directions, the original file, damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blip_bootstrap.errors import CheckpointError
from blip_training.checkpoint.store import load_any, load_med, load_vqa, save_captioner, save_med, save_vqa
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.med import Med
from blip_training.model.vqa import Vqa
from blip_training.objective.losses import answer_loss
from tests.support.tiny_med import normalised_of, read_by
from tests.support.tiny_vqa import QUESTIONS, WORDS, some_pixels, spread, theirs_config, tiny_config, tiny_vqa

ANSWERS = ["w7 w8 w9", "w7", "w1 w2"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(WORDS)


def assert_parity(vqa: Vqa, theirs: Any, tokenizer: Tokenizer) -> None:
    """Image states, question states, logits of every answer token, and the loss.

    One question at a time: transformers 5 drops the mask of cross-attention, so its decoder looks at padding.
    """
    for row, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True)):
        pixels = some_pixels()[row : row + 1]
        ids, mask = tokenizer.encode([question], 30, "[ENC]")
        answer_ids, answer_mask = tokenizer.encode([answer], 30, "[DEC]")
        states = vqa.encode_image(pixels)
        read = vqa.read_questions(states, ids, mask)
        logits = vqa.lm_logits(vqa.answer_states(read, mask, answer_ids, answer_mask))
        their_read = theirs.text_encoder(ids, attention_mask=mask, encoder_hidden_states=states).last_hidden_state
        their_logits = theirs.text_decoder(answer_ids, encoder_hidden_states=their_read).logits
        said = theirs(input_ids=ids, pixel_values=normalised_of(vqa, pixels), labels=answer_ids)
        smoothing = theirs.text_decoder.label_smoothing
        cost = answer_loss(vqa, read, mask, answer_ids, answer_mask, torch.ones(1), torch.zeros(1).long(), smoothing)
        per_token = cost / (answer_mask.sum() - 1)
        for mine, yours in (
            (states, said.last_hidden_state), (read, their_read), (logits, their_logits), (per_token, said.loss),
        ):  # fmt: skip
            torch.testing.assert_close(mine, yours, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_transformers_computes_what_a_saved_model_computes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    from transformers import BlipForQuestionAnswering

    vqa = tiny_vqa(tokenizer)
    save_vqa(tmp_path, vqa, tokenizer)
    assert_parity(vqa, read_by(BlipForQuestionAnswering, tmp_path), tokenizer)


@torch.no_grad()
def test_a_folder_of_transformers_loads_and_computes_the_same(tmp_path: Path, tokenizer: Tokenizer) -> None:
    from transformers import BlipForQuestionAnswering

    theirs = BlipForQuestionAnswering(theirs_config(tokenizer)).eval()
    spread(theirs, std=0.1)
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    assert_parity(load_vqa(tmp_path)[0], theirs, tokenizer)


def assert_equal(loaded: Vqa, vqa: Vqa) -> None:
    mine, yours = loaded.state_dict(), vqa.state_dict()
    assert mine.keys() == yours.keys()
    assert all(torch.equal(mine[name], yours[name]) for name in mine)
    assert loaded.capabilities == vqa.capabilities
    assert not loaded.training


@pytest.mark.parametrize("vision_width", [128, 64])
def test_what_is_saved_is_loaded(tmp_path: Path, tokenizer: Tokenizer, vision_width: int) -> None:
    vqa = tiny_vqa(tokenizer, vision_width)
    save_vqa(tmp_path, vqa, tokenizer)
    is_own = json.loads((tmp_path / "config.json").read_text()).get("format") == "blip-bootstrap/1"
    assert is_own == (vision_width == 64)
    loaded, _ = load_vqa(tmp_path)
    assert loaded.config == vqa.config
    assert_equal(loaded, vqa)
    assert load_vqa(tmp_path, image_size=48)[0].vision.positions.shape[1] == 37


def original_weights(vqa: Vqa, folder: Path, tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
    """What the original VQA file of `vqa` holds, by its names."""
    save_vqa(folder, vqa, tokenizer)
    rules = (
        ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
        ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
        ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
        ("vision_model.post_layernorm", "visual_encoder.norm"),
        ("vision_model.encoder.layers", "visual_encoder.blocks"),
        ("layer_norm", "norm"), ("self_attn.projection", "attn.proj"), ("self_attn", "attn"),
    )  # fmt: skip
    renamed = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        for new, old in rules:
            name = name.replace(new, old)
        renamed[name] = weight
    tied = {"weight": "bert.embeddings.word_embeddings.weight", "bias": "cls.predictions.bias"}
    for kind, source in tied.items():
        renamed[f"text_decoder.cls.predictions.decoder.{kind}"] = renamed[f"text_decoder.{source}"].clone()
    for stack in ("text_encoder", "text_decoder.bert"):
        renamed[f"{stack}.embeddings.position_ids"] = torch.arange(40)[None]
    return renamed


def test_the_original_file(tmp_path: Path, tokenizer: Tokenizer) -> None:
    vqa = tiny_vqa(tokenizer)
    torch.save({"model": original_weights(vqa, tmp_path, tokenizer)}, tmp_path / "model_vqa.pth")
    assert_equal(load_vqa(tmp_path / "model_vqa.pth")[0], vqa)


def test_an_original_file_that_lacks_keys(tmp_path: Path, tokenizer: Tokenizer) -> None:
    weights = original_weights(tiny_vqa(tokenizer), tmp_path, tokenizer)
    del weights["text_decoder.bert.encoder.layer.1.crossattention.self.key.weight"]
    torch.save({"model": weights | {"text_encoder.more": torch.zeros(1)}}, tmp_path / "model_vqa.pth")
    with pytest.raises(CheckpointError) as caught:
        load_vqa(tmp_path / "model_vqa.pth")
    missing, left_over = "layer.1.crossattention.self.key.weight missing", "keys text_encoder.more left over"
    assert missing in str(caught.value)
    assert left_over in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("vision_width", [128, 64])
def test_a_damaged_folder_is_one_line_that_names_the_keys(
    tmp_path: Path, tokenizer: Tokenizer, vision_width: int
) -> None:
    save_vqa(tmp_path, tiny_vqa(tokenizer, vision_width), tokenizer)
    weights = load_file(tmp_path / "model.safetensors")
    name = sorted(name for name in weights if name.startswith("text"))[0]
    del weights[name]
    save_file(weights | {"stranger": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"keys .* missing; keys stranger left over") as caught:
        load_vqa(tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_kind_is_told_from_the_other(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_vqa(tmp_path / "vqa", tiny_vqa(tokenizer), tokenizer)
    med = Med(tiny_config(), tokenizer.num_tokens)
    save_med(tmp_path / "med", med, tokenizer)
    save_captioner(tmp_path / "captioner", med, tokenizer)
    with pytest.raises(CheckpointError, match="it cannot caption or match"):
        load_med(tmp_path / "vqa")
    with pytest.raises(CheckpointError, match="cannot answer, only decode, embed, match"):
        load_vqa(tmp_path / "med")
    with pytest.raises(CheckpointError, match="cannot answer, only decode;"):
        load_vqa(tmp_path / "captioner")
    kinds = {name: type(load_any(tmp_path / name)[0]) for name in ("vqa", "med", "captioner")}
    assert kinds == {"vqa": Vqa, "med": Med, "captioner": Med}
