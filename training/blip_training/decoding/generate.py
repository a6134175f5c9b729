"""Writes captions from image states: by nucleus or top-k sampling, greedily, or by beam search (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from blip_bootstrap.errors import InputError
from blip_training.decoding.beam import search_beams
from blip_training.decoding.incremental import REGROUP_BELOW, IncrementalDecoder
from blip_training.decoding.sampler import Sampler
from blip_training.decoding.sampling import draw_tokens, penalise, seeded_uniforms
from blip_training.model.med import DECODE, require

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from blip_training.data.tokenizer import Tokenizer
    from blip_training.model.med import Med


LONGEST_LOOP = 4


@dataclass
class Generated:
    """One caption.

    `ids` are its `num_tokens` tokens between [DEC] and [SEP], the prompt among them; `text` is without the prompt.
    `logprob` is the log-probability (nats) of the tokens after the prompt and of [SEP] under the model's own
    distribution, without temperature, penalty or cut. `flags` are of: empty, repetition, prompt_leak,
    cut_at_max_length.
    """

    ids: list[int]
    text: str
    logprob: float
    num_tokens: int
    flags: tuple[str, ...]


@torch.inference_mode()
def generate(
    med: Med,
    tokenizer: Tokenizer,
    states: Float[Tensor, "b p v"],
    prompt: str,
    sampler: Sampler,
    seeds: list[list[int]],
) -> list[list[Generated]]:
    """Write K captions for each of B images from their states; `seeds` are B lists of K seeds.

    A caption depends on its image, the settings and its own seed, and on nothing else in the batch. Greedy ignores
    the seeds, beam search gives an image's K best beams. Raises InputError if the prompt leaves no room or K is more
    than the beams, CheckpointError if `med` has no decoder.
    """
    require(med, DECODE)
    assert len(seeds) == states.shape[0], f"{len(seeds)} lists of seeds for {states.shape[0]} images"
    num_candidates = len(seeds[0]) if seeds else 0
    if not num_candidates:
        return [[] for _ in seeds]
    check_room(tokenizer, prompt, sampler, med.config.text.max_positions)
    start = [tokenizer.dec_id, *tokenizer.piece_ids(prompt)]
    if sampler.num_beams > 1:
        if num_candidates > sampler.num_beams:
            raise InputError(
                f"{num_candidates} candidates from {sampler.num_beams} beams; set sampler.num_beams higher"
            )
        rows = search_beams(med, states, start, tokenizer.sep_id, sampler, num_candidates)
    else:
        rows = _sample(med, states, start, tokenizer.sep_id, sampler, seeds)
    written = [_generated(tokenizer, prompt, len(start), tokens, logprob) for tokens, logprob in rows]
    return [written[i : i + num_candidates] for i in range(0, len(written), num_candidates)]


def check_room(tokenizer: Tokenizer, prompt: str, sampler: Sampler, max_positions: int) -> None:
    """Raise InputError if a prompt leaves no room for a caption, or captions may exceed `max_positions`."""
    num_tokens = 1 + len(tokenizer.piece_ids(prompt))
    if num_tokens >= sampler.max_tokens:
        room = f"sampler.max_tokens is {sampler.max_tokens}"
        raise InputError(f"prompt {prompt!r} has {num_tokens} tokens with [DEC], {room}")
    if sampler.max_tokens > max_positions:
        raise InputError(f"sampler.max_tokens is {sampler.max_tokens}, the model has positions for {max_positions}")


def _sample(
    med: Med, states: Tensor, start: list[int], sep_id: int, sampler: Sampler, seeds: Sequence[Sequence[int]]
) -> list[tuple[list[int], float]]:
    """Tokens from [DEC] on and log-probability of each row; row r is candidate r % K of image r // K."""
    num_images, num_candidates = len(seeds), len(seeds[0])
    uniforms = seeded_uniforms([seed for row in seeds for seed in row], sampler.max_tokens).to(states.device)
    tokens = torch.tensor(start, device=states.device).repeat(num_images * num_candidates, 1)
    tokens = torch.cat([tokens, tokens.new_full((len(tokens), sampler.max_tokens - len(start)), sep_id)], dim=1)
    logprobs = torch.zeros(len(tokens), dtype=torch.float64, device=states.device)
    finished = torch.zeros(len(tokens), dtype=torch.bool, device=states.device)

    decoder = IncrementalDecoder(med, states, sampler.max_tokens, num_candidates)
    logits = decoder.prefill(start).repeat_interleave(num_candidates, dim=0)
    decoder.repeat(num_candidates)
    rows = torch.arange(len(tokens), device=states.device)
    for at in range(len(start), sampler.max_tokens):
        scores = penalise(logits, tokens[rows, :at], sampler.repetition_penalty, sep_id, at < sampler.min_tokens)
        drawn = draw_tokens(scores, uniforms[rows, at], sampler) if sampler.sample else scores.argmax(1)
        own = logits.gather(1, drawn[:, None])[:, 0] - torch.logsumexp(logits, dim=1)
        drawn = torch.where(finished[rows], sep_id, drawn)
        logprobs[rows] += torch.where(finished[rows], 0.0, own).double()
        tokens[rows, at] = drawn
        finished[rows] |= drawn == sep_id
        if at + 1 == sampler.max_tokens or bool(finished[rows].all()):
            break
        rows, drawn = _leave(decoder, rows, drawn, finished)
        logits = decoder.step(drawn)
    return list(zip(tokens.tolist(), logprobs.tolist(), strict=True))


def _leave(decoder: IncrementalDecoder, rows: Tensor, drawn: Tensor, finished: Tensor) -> tuple[Tensor, Tensor]:
    """Drop finished rows from the batch once they are a quarter of it."""
    writing = (~finished[rows]).nonzero()[:, 0]
    if len(writing) > REGROUP_BELOW * len(rows):
        return rows, drawn
    decoder.leave(writing)
    return rows[writing], drawn[writing]


def _generated(tokenizer: Tokenizer, prompt: str, prompt_length: int, tokens: list[int], logprob: float) -> Generated:
    ended = tokenizer.sep_id in tokens[prompt_length:]
    end = tokens.index(tokenizer.sep_id, prompt_length) if ended else len(tokens)
    text = tokenizer.decode(tokens[prompt_length:end])
    flags = _flags(text, tokens[prompt_length:end], tokenizer.decode(tokens[1:prompt_length]), ended)
    return Generated(tokens[1:end], text, logprob, end - 1, flags)


def _flags(text: str, ids: list[int], prompt: str, ended: bool) -> tuple[str, ...]:
    found = {
        "empty": not any(character.isalnum() for character in text),
        "repetition": _has_loop(ids),
        "prompt_leak": bool(prompt) and prompt in text,
        "cut_at_max_length": not ended,
    }
    return tuple(name for name, holds in found.items() if holds)


def _has_loop(ids: Sequence[Any]) -> bool:
    """Whether a token stands three times in succession, or two to four tokens are repeated at once."""
    for size in range(1, LONGEST_LOOP + 1):
        times = 3 if size == 1 else 2
        for i in range(len(ids) - size * times + 1):
            if all(ids[i : i + size] == ids[i + j * size : i + (j + 1) * size] for j in range(1, times)):
                return True
    return False
