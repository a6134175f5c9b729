"""The model for questions: what it starts from, its loss against a loop, and that padding changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from blip_bootstrap.errors import CheckpointError
from blip_training.checkpoint.fresh import vqa_from_med
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.med import Med
from blip_training.model.vqa import Vqa
from blip_training.objective.losses import answer_loss
from tests.support.tiny_vqa import QUESTIONS, WORDS, some_pixels, spread, tiny_config, tiny_vqa

ANSWERS = ["w7", "w7 w8 w9", "w1 w2", "w11"]
OF_QUESTION = [0, 0, 1, 2]
WEIGHTS = [0.75, 0.25, 1.0, 1.0]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(WORDS)


def loss_of(vqa: Vqa, tokenizer: Tokenizer, smoothing: float = 0.1) -> torch.Tensor:
    ids, mask = tokenizer.encode(QUESTIONS, 30)
    read = vqa.read_questions(vqa.encode_image(some_pixels()), ids, mask)
    answers = tokenizer.encode(ANSWERS, 10)
    return answer_loss(vqa, read, mask, *answers, torch.tensor(WEIGHTS), torch.tensor(OF_QUESTION), smoothing)


@torch.no_grad()
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_a_loop_over_single_answers(tokenizer: Tokenizer, smoothing: float) -> None:
    vqa, pixels, total = tiny_vqa(tokenizer), some_pixels(), 0.0
    for answer, row, weight in zip(ANSWERS, OF_QUESTION, WEIGHTS, strict=True):
        ids, mask = tokenizer.encode([QUESTIONS[row]], 30, "[ENC]")
        read = vqa.text(ids, mask, "bidirectional", vqa.encode_image(pixels[row : row + 1]))
        ids, mask = tokenizer.encode([answer], 10, "[DEC]")
        logprobs = vqa.lm_logits(vqa.text(ids, mask, "causal", read))[0].log_softmax(-1)
        for at, token in enumerate(ids[0, 1:]):
            mean = logprobs[at].mean()
            total -= weight * float((1 - smoothing) * logprobs[at, token] + smoothing * mean)
    assert float(loss_of(vqa, tokenizer, smoothing)) == pytest.approx(total / len(QUESTIONS), rel=1e-5)


def test_every_weight_learns(tokenizer: Tokenizer) -> None:
    vqa = tiny_vqa(tokenizer).train()
    loss_of(vqa, tokenizer).backward()
    assert [name for name, weight in vqa.named_parameters() if weight.grad is None] == []


@torch.no_grad()
def test_the_decoder_sees_the_question_and_not_its_padding(tokenizer: Tokenizer) -> None:
    vqa, pixels = tiny_vqa(tokenizer), some_pixels()
    states = vqa.encode_image(pixels)
    ids, mask = tokenizer.encode(QUESTIONS, 30)
    answers, answers_mask = tokenizer.encode(["w7 w8"] * 3, 10)
    together = vqa.answer_states(vqa.read_questions(states, ids, mask), mask, answers, answers_mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        one = slice(row, row + 1)
        read = vqa.read_questions(states[one], ids[one, :length], mask[one, :length])
        alone = vqa.answer_states(read, None, answers[one], answers_mask[one])
        torch.testing.assert_close(together[one], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("share", ["all", "all_but_ca", "all_but_sa", "none"])
def test_encoder_and_decoder_start_from_the_two_readings(tokenizer: Tokenizer, share: Any) -> None:
    med = Med(tiny_config(share=share), tokenizer.num_tokens).eval()
    spread(med)
    vqa, pixels = vqa_from_med(med).eval(), some_pixels()
    ids, mask = tokenizer.encode(QUESTIONS, 30, "[DEC]")
    states = med.encode_image(pixels)
    torch.testing.assert_close(vqa.encode_image(pixels), states)
    enc = tokenizer.encode(QUESTIONS, 30, "[ENC]")[0]
    torch.testing.assert_close(vqa.read_questions(states, ids, mask), med.text(enc, mask, "bidirectional", states))
    torch.testing.assert_close(vqa.decode(states, ids, mask), med.decode(states, ids, mask))


@torch.no_grad()
def test_image_and_text_of_different_widths(tokenizer: Tokenizer) -> None:
    med = Med(tiny_config(vision_width=64), tokenizer.num_tokens)
    spread(med)
    vqa = vqa_from_med(med).eval()
    assert torch.isfinite(loss_of(vqa, tokenizer))
    taken, given = vqa.state_dict(), med.state_dict()
    name = "text.layers.1.cross_attention.causal.query.weight"
    assert torch.equal(taken[name], given[name.replace("causal", "both")])
    assert taken[name.replace("query", "key_value")].shape == (256, 128)


def test_a_model_that_cannot_match_and_decode_is_no_start(tokenizer: Tokenizer) -> None:
    med = Med(tiny_config(), tokenizer.num_tokens)
    med.capabilities = frozenset({"decode"})
    with pytest.raises(CheckpointError, match="cannot match"):
        vqa_from_med(med)
