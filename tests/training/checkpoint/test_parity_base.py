"""Base size, random weights, float32: what transformers computes, we compute, in both directions, to 1e-4."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from blip_bootstrap.config import ModelConfig
from blip_training.checkpoint.blip_config import config_from_transformers
from blip_training.checkpoint.blip_format import (
    CAPTIONER_CLASS,
    FILTER_CLASS,
    VQA_CLASS,
    captioner_weights,
    filter_weights,
    med_from_blip,
    transformers_config,
    vqa_weights,
)
from blip_training.checkpoint.fresh import vqa_from_med
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.med import Med
from blip_training.model.vqa import Vqa
from tests.support.tiny_med import normalised_of

NUM_PIECES = 30_522
TEXT = "w7 w501 w30000 w12"
CLOSE: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module", autouse=True)
def _no_random_start() -> Iterator[None]:
    """Every weight that is compared is given; drawing a start for a thousand million of them takes half a minute."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("trunc_normal_", "normal_", "kaiming_uniform_"):
            patch.setattr(torch.nn.init, name, lambda weight, *_, **__: torch.nn.init.zeros_(weight))
        yield


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    return Tokenizer([*special, *(f"w{i}" for i in range(NUM_PIECES - len(special)))])


@pytest.fixture(scope="module")
def med(tokenizer: Tokenizer) -> Iterator[Med]:
    torch.manual_seed(0)
    made = Med(ModelConfig(), tokenizer.num_tokens).eval()
    spread(made)
    yield made
    gc.collect()


@torch.no_grad()
def spread(model: torch.nn.Module) -> None:
    """Add noise to every weight, norms and biases too: one draw, as base size has 250 M of them."""
    noise = torch.randn(max(weight.numel() for weight in model.parameters())) * 0.02
    for weight in model.parameters():
        weight.add_(noise[: weight.numel()].view_as(weight))


def pixels(size: int = 224) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8, generator=generator)


def theirs_of(med: Med, tokenizer: Tokenizer, kind: str, weights: dict[str, torch.Tensor]) -> Any:
    """transformers' model with our configuration file and our weights."""
    import transformers

    config = transformers.BlipConfig.from_dict(transformers_config(med, tokenizer, kind))
    model, said = getattr(transformers, kind).from_pretrained(
        None, config=config, state_dict=weights, output_loading_info=True
    )
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    return model.eval()


def ours_of(theirs: Any) -> Med:
    """Our model with the configuration and the weights of transformers'."""
    spread(theirs)
    config, num_tokens = config_from_transformers(theirs.config.to_dict(), Path("theirs"))
    return med_from_blip(dict(theirs.state_dict()), config, num_tokens, Path("theirs")).eval()


def assert_captions(med: Med, theirs: Any, tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode([TEXT], 30, "[DEC]")
    out = theirs(normalised_of(med, pixels()), input_ids=ids, attention_mask=mask)
    states = med.encode_image(pixels())
    torch.testing.assert_close(states, out.last_hidden_state, **CLOSE)
    logits = med.decode(states, ids, mask)
    assert float(logits.std()) > 0.1
    torch.testing.assert_close(logits, out.logits, **CLOSE)


def assert_scores(med: Med, theirs: Any, tokenizer: Tokenizer) -> None:
    """With [ENC] as the first token on both sides; then ITC, with [CLS]."""
    ids, mask = tokenizer.encode([TEXT, "w9 w8"], 30, "[ENC]")
    normalised = normalised_of(med, pixels())
    states = med.encode_image(pixels())
    for row in range(2):
        one = slice(row, row + 1)
        out = theirs(ids[one], normalised, attention_mask=mask[one])
        torch.testing.assert_close(med.match(states, ids[one], mask[one]), out.itm_score, **CLOSE)
    torch.testing.assert_close(states, out.last_hidden_state, **CLOSE)
    ids, mask = tokenizer.encode([TEXT, "w9 w8"], 30)
    similarity = med.embed_image(states) @ med.embed_text(ids, mask).T
    theirs_similarity = theirs(ids, normalised, attention_mask=mask, use_itm_head=False).itm_score
    torch.testing.assert_close(similarity, theirs_similarity, **CLOSE)


def assert_answers(vqa: Vqa, theirs: Any, tokenizer: Tokenizer) -> None:
    """Logits of an answer's tokens, and the first tokens of a greedy answer."""
    ids, mask = tokenizer.encode([TEXT], 35, "[ENC]")
    answer, answer_mask = tokenizer.encode(["w4 w77"], 10, "[DEC]")
    states = vqa.encode_image(pixels())
    read = vqa.read_questions(states, ids, mask)
    logits = vqa.lm_logits(vqa.answer_states(read, mask, answer, answer_mask))
    normalised = normalised_of(vqa, pixels())
    said: dict[str, Any] = {}
    hook = theirs.text_decoder.register_forward_hook(lambda *call: said.update(logits=call[2].logits))
    out = theirs(input_ids=ids, pixel_values=normalised, attention_mask=mask, decoder_input_ids=answer)
    hook.remove()
    torch.testing.assert_close(states, out.last_hidden_state, **CLOSE)
    assert float(logits.std()) > 0.1
    torch.testing.assert_close(logits, said["logits"], **CLOSE)


@torch.no_grad()
def test_captioner(med: Med, tokenizer: Tokenizer) -> None:
    theirs = theirs_of(med, tokenizer, CAPTIONER_CLASS, captioner_weights(med))
    assert_captions(med, theirs, tokenizer)
    assert_captions(ours_of(theirs), theirs, tokenizer)


@torch.no_grad()
def test_filter(med: Med, tokenizer: Tokenizer) -> None:
    theirs = theirs_of(med, tokenizer, FILTER_CLASS, filter_weights(med))
    assert_scores(med, theirs, tokenizer)
    assert_scores(ours_of(theirs), theirs, tokenizer)


@torch.no_grad()
def test_question_answering(med: Med, tokenizer: Tokenizer) -> None:
    vqa = vqa_from_med(med).eval()
    theirs = theirs_of(vqa, tokenizer, VQA_CLASS, vqa_weights(vqa))
    assert_answers(vqa, theirs, tokenizer)
    del vqa
    loaded = ours_of(theirs)
    assert isinstance(loaded, Vqa)
    assert_answers(loaded, theirs, tokenizer)
