"""Decoding: parity with transformers' generate, sampling by the rules, and captions that no batch changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from blip_bootstrap.config import ModelConfig, SamplerConfig
from blip_bootstrap.errors import CheckpointError, InputError
from blip_training.checkpoint.store import save_captioner
from blip_training.data.tokenizer import Tokenizer
from blip_training.decoding.generate import Generated, generate
from blip_training.decoding.incremental import IncrementalDecoder
from blip_training.decoding.sampler import Sampler, resolve_sampler
from blip_training.decoding.sampling import draw_tokens, penalise, seeded_uniforms
from blip_training.model.med import Med

PROMPT = "a picture of"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "picture", "of", *(f"w{i}" for i in range(50))]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(WORDS)


@pytest.fixture(scope="module")
def med(tokenizer: Tokenizer) -> Med:
    """Random weights, large enough for peaked distributions; [SEP] likely, so that texts end at all lengths."""
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "vision": {"image_size": 32, "patch_size": 8, "width": 64, "depth": 2, "heads": 2},
            "text": {"width": 64, "depth": 2, "heads": 2, "intermediate": 96, "max_positions": 40},
        }
    )
    model = Med(config, tokenizer.num_tokens).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(3)
        model.text.lm_head.bias[tokenizer.sep_id] = 1.5
    return model


@pytest.fixture(scope="module")
def states(med: Med) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return med.encode_image(torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=generator))


def seeds(num_images: int, num_candidates: int) -> list[list[int]]:
    return [[1000 * image + candidate for candidate in range(num_candidates)] for image in range(num_images)]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, med: Med, tokenizer: Tokenizer) -> Any:
    from transformers import BlipForConditionalGeneration

    folder: Path = tmp_path_factory.mktemp("captioner")
    save_captioner(folder, med, tokenizer)
    return BlipForConditionalGeneration.from_pretrained(folder).eval()


@pytest.mark.parametrize("changes", [{}, {"repetition_penalty": 1.5}, {"min_tokens": 9, "max_tokens": 12}])
@pytest.mark.parametrize("num_beams", [1, 3, 5])
def test_greedy_and_beam_are_those_of_transformers(
    theirs: Any, med: Med, tokenizer: Tokenizer, states: torch.Tensor, num_beams: int, changes: dict[str, Any]
) -> None:
    sampler = Sampler(**{"sample": False, "num_beams": num_beams, **changes})
    ours = generate(med, tokenizer, states[:24], PROMPT, sampler, seeds(24, 1))
    start = [tokenizer.dec_id, *tokenizer.piece_ids(PROMPT)]
    rows = theirs.text_decoder.generate(
        input_ids=torch.tensor([start] * 24),
        eos_token_id=tokenizer.sep_id,
        pad_token_id=tokenizer.pad_id,
        encoder_hidden_states=states[:24],
        do_sample=False,
        num_beams=num_beams,
        min_length=sampler.min_tokens,
        max_length=sampler.max_tokens,
        repetition_penalty=sampler.repetition_penalty,
    ).tolist()
    ends = [row.index(tokenizer.sep_id) if tokenizer.sep_id in row else len(row) for row in rows]
    assert [caption[0].ids for caption in ours] == [row[1:end] for row, end in zip(rows, ends, strict=True)]


def test_best_beams_are_those_of_transformers(
    theirs: Any, med: Med, tokenizer: Tokenizer, states: torch.Tensor
) -> None:
    ours = generate(med, tokenizer, states[:8], PROMPT, Sampler(sample=False, num_beams=4), seeds(8, 3))
    start = [tokenizer.dec_id, *tokenizer.piece_ids(PROMPT)]
    rows = theirs.text_decoder.generate(
        input_ids=torch.tensor([start] * 8), eos_token_id=tokenizer.sep_id, pad_token_id=tokenizer.pad_id,
        encoder_hidden_states=states[:8], num_beams=4, num_return_sequences=3, min_length=5, max_length=20,
    ).tolist()  # fmt: skip
    expected = [row[1 : row.index(tokenizer.sep_id) if tokenizer.sep_id in row else len(row)] for row in rows]
    assert [caption.ids for captions in ours for caption in captions] == expected


@pytest.mark.parametrize("num_candidates", [1, 2])  # without and with keys and values
@pytest.mark.parametrize("preset", ["blip-official", "nucleus", "beam", "greedy"])
def test_a_caption_depends_on_its_image_and_seed_alone(
    med: Med, tokenizer: Tokenizer, states: torch.Tensor, preset: Any, num_candidates: int
) -> None:
    sampler, wanted = resolve_sampler(SamplerConfig(preset=preset)), seeds(40, num_candidates)

    def ids(size: int, order: list[int]) -> dict[int, list[list[int]]]:
        found: dict[int, list[list[int]]] = {}
        for i in range(0, 40, size):
            part = order[i : i + size]
            captions = generate(med, tokenizer, states[part], PROMPT, sampler, [wanted[image] for image in part])
            found |= {image: [c.ids for c in captions] for image, captions in zip(part, captions, strict=True)}
        return found

    whole = ids(40, list(range(40)))
    assert ids(1, list(range(40))) == whole
    assert ids(7, list(reversed(range(40)))) == whole


def test_more_candidates_change_none_of_the_first(med: Med, tokenizer: Tokenizer, states: torch.Tensor) -> None:
    five = generate(med, tokenizer, states[:16], PROMPT, Sampler(), seeds(16, 5))
    two = generate(med, tokenizer, states[:16], PROMPT, Sampler(), seeds(16, 2))
    assert [[c.ids for c in captions[:2]] for captions in five] == [[c.ids for c in captions] for captions in two]
    assert len({tuple(c.ids) for captions in five for c in captions}) > 40


@torch.no_grad()
@pytest.mark.parametrize("num_slots", [1, 2])  # without and with keys and values
def test_token_by_token_logits_are_those_of_the_whole_sequence(
    med: Med, tokenizer: Tokenizer, states: torch.Tensor, num_slots: int
) -> None:
    ids = torch.randint(4, 50, (6, 9), generator=torch.Generator().manual_seed(3))
    ids[:, 0] = tokenizer.dec_id
    ids[:, 1:3] = ids[0, 1:3]
    whole = med.decode(states[:3], ids, torch.ones_like(ids))
    decoder = IncrementalDecoder(med, states[:3], 12, num_slots)
    steps = [decoder.prefill(ids[0, :3].tolist()).repeat_interleave(2, 0)]
    decoder.repeat(2)
    steps += [decoder.step(ids[:, at]) for at in range(3, 9)]
    torch.testing.assert_close(torch.stack(steps, 1), whole[:, 2:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("sampler", [Sampler(temperature=0.7), Sampler(sample=False, num_beams=3)])
def test_logprob_is_the_sum_under_the_models_own_distribution(
    med: Med, tokenizer: Tokenizer, states: torch.Tensor, sampler: Sampler
) -> None:
    for image, (caption,) in enumerate(generate(med, tokenizer, states[:12], PROMPT, sampler, seeds(12, 1))):
        end = [] if "cut_at_max_length" in caption.flags else [tokenizer.sep_id]
        ids = torch.tensor([[tokenizer.dec_id, *caption.ids, *end]])
        own = med.decode(states[image : image + 1], ids, torch.ones_like(ids)).log_softmax(-1)[0]
        expected = sum(float(own[at - 1, ids[0, at]]) for at in range(4, ids.shape[1]))
        assert caption.logprob == pytest.approx(expected, abs=1e-4)
        assert caption.num_tokens == len(caption.ids)
        assert caption.ids[:3] == tokenizer.piece_ids(PROMPT)


def loop_distribution(logits: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """Reference: cut to the k best, then to the smallest set that has top_p of what is left."""
    order = sorted(range(len(logits)), key=lambda i: -float(logits[i]))[: top_k or len(logits)]
    left = torch.softmax(logits[order].double() / temperature, 0).tolist()
    kept: dict[int, float] = {}
    for token, probability in zip(order, left, strict=True):
        if sum(kept.values()) < top_p:
            kept[token] = probability
    result = torch.zeros(len(logits), dtype=torch.float64)
    for token, probability in kept.items():
        result[token] = probability / sum(kept.values())
    return result


@pytest.mark.parametrize(("top_k", "top_p", "size"), [(0, 0.9, 40), (5, 1.0, 40), (10, 0.8, 40), (0, 0.95, 600)])
def test_drawn_tokens_follow_the_cut_distribution(top_k: int, top_p: float, size: int) -> None:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(4)) * 1.5
    sampler = Sampler(top_k=top_k, top_p=top_p, temperature=0.8)
    uniforms = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    drawn = draw_tokens(logits.expand(20_000, -1), uniforms, sampler)
    share = torch.bincount(drawn, minlength=size).double() / 20_000
    torch.testing.assert_close(share, loop_distribution(logits, 0.8, top_k, top_p), atol=2e-4, rtol=0)


def test_a_flat_row_changes_no_draw_of_the_others() -> None:
    """A flat one is looked at whole; what the others are cut to is among their likeliest tokens."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(40, 2000, generator=generator) * torch.tensor([0.3, 9.0]).repeat(20)[:, None]
    uniforms, sampler = torch.rand(40, generator=generator, dtype=torch.float64), Sampler(top_p=0.9)
    together = draw_tokens(scores, uniforms, sampler)
    alone = [draw_tokens(scores[row : row + 1], uniforms[row : row + 1], sampler) for row in range(40)]
    assert together.tolist() == torch.cat(alone).tolist()
    ranks = (scores > scores.gather(1, together[:, None])).sum(1)
    assert ranks[0::2].max() > 256 > ranks[1::2].max()


def test_penalty_and_minimum_length() -> None:
    scores = torch.tensor([[2.0, -2.0, 1.0, 0.5]])
    changed = penalise(scores, torch.tensor([[0, 1, 0]]), 2.0, sep_id=2, too_short=True)
    assert changed.tolist() == [[1.0, -4.0, -torch.inf, 0.5]]
    assert scores.tolist() == [[2.0, -2.0, 1.0, 0.5]]


def test_uniforms_are_a_hash_of_seed_and_step() -> None:
    some = seeded_uniforms(list(range(2000)), 20)
    assert torch.equal(seeded_uniforms([1999, 7], 5), some[[1999, 7], :5])
    assert torch.equal(seeded_uniforms([-1], 3), seeded_uniforms([2**64 - 1], 3))
    assert 0 <= float(some.min()) < 0.001
    assert 0.999 < float(some.max()) < 1
    assert abs(float(some.mean()) - 0.5) < 0.005
    assert abs(float(torch.corrcoef(some[:, :2].T)[0, 1])) < 0.05


def test_presets_and_what_is_given_beside_them() -> None:
    assert resolve_sampler(SamplerConfig(preset="blip-official")) == Sampler(
        sample=True, top_p=0.9, top_k=50, repetition_penalty=1.1, min_tokens=5, max_tokens=20
    )
    assert resolve_sampler(SamplerConfig(preset="beam", num_beams=5, max_tokens=30)).num_beams == 5
    assert resolve_sampler(SamplerConfig(preset="nucleus", top_k=0, temperature=0.5)).temperature == 0.5


def made_to_say(med: Med, tokenizer: Tokenizer, pieces: list[int]) -> Generated:
    """A caption from a decoder that is forced to these pieces."""
    from blip_training.decoding.generate import _generated

    start = [tokenizer.dec_id, *tokenizer.piece_ids(PROMPT)]
    return _generated(tokenizer, PROMPT, len(start), [*start, *pieces], -1.0)


def test_flags_and_text(med: Med, tokenizer: Tokenizer) -> None:
    sep, w = tokenizer.sep_id, tokenizer.piece_ids("w0 w1 w2")
    good = made_to_say(med, tokenizer, [*w, sep, sep])
    assert (good.text, good.flags, good.num_tokens) == ("w0 w1 w2", (), 6)
    assert made_to_say(med, tokenizer, [sep]).flags == ("empty",)
    assert made_to_say(med, tokenizer, w).flags == ("cut_at_max_length",)
    assert made_to_say(med, tokenizer, [w[0]] * 3 + [sep]).flags == ("repetition",)
    assert made_to_say(med, tokenizer, [w[0], w[1], w[0], w[1], sep]).flags == ("repetition",)
    assert made_to_say(med, tokenizer, [w[0], w[0], w[1], w[0], sep]).flags == ()
    assert made_to_say(med, tokenizer, [w[0], *tokenizer.piece_ids(PROMPT), sep]).flags == ("prompt_leak",)


def test_what_cannot_be_generated(med: Med, tokenizer: Tokenizer, states: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"prompt 'a picture of' has 4 tokens with \[DEC\], sampler\.max_tokens is 4"):
        generate(med, tokenizer, states[:1], PROMPT, Sampler(max_tokens=4), [[0]])
    with pytest.raises(InputError, match="4 candidates from 3 beams"):
        generate(med, tokenizer, states[:1], PROMPT, Sampler(sample=False, num_beams=3), [[0, 1, 2, 3]])
    assert generate(med, tokenizer, states[:0], PROMPT, Sampler(), []) == []
    filter_only = Med(med.config, med.num_tokens)
    filter_only.capabilities = frozenset({"match"})
    with pytest.raises(CheckpointError, match="cannot decode"):
        generate(filter_only, tokenizer, states[:1], PROMPT, Sampler(), [[0]])
