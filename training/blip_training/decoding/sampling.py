"""The choice of the next token: penalties, top-k and top-p, and a draw that depends on the row's own seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from numpy.typing import NDArray
    from torch import Tensor

    from blip_training.decoding.sampler import Sampler


FIRST_LOOK = 256
"""Most likely tokens tried first for top-p: sorting 30,524 logits a row costs more than a small model's whole step."""

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def seeded_uniforms(seeds: Sequence[int], num_steps: int) -> Float[Tensor, "n s"]:
    """Uniform numbers in [0, 1), float64; number [r, s] is a hash (splitmix64) of seeds[r] and s alone."""
    keys = _mix(np.array([seed & (2**64 - 1) for seed in seeds], dtype=np.uint64))
    counters = np.arange(1, num_steps + 1, dtype=np.uint64) * GOLDEN
    bits = _mix(keys[:, None] + counters[None, :])
    return torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def penalise(
    scores: Float[Tensor, "n v"], tokens: Int64[Tensor, "n t"], repetition_penalty: float, sep_id: int, too_short: bool
) -> Float[Tensor, "n v"]:
    """Make tokens that were written already less likely, and [SEP] impossible while the text is too short."""
    if repetition_penalty != 1.0:
        seen = scores.gather(1, tokens)
        seen = torch.where(seen < 0, seen * repetition_penalty, seen / repetition_penalty)
        scores = scores.scatter(1, tokens, seen)
    if too_short:
        scores = scores.clone()
        scores[:, sep_id] = -torch.inf
    return scores


def draw_tokens(scores: Float[Tensor, "n v"], uniforms: Float[Tensor, " n"], sampler: Sampler) -> Int64[Tensor, " n"]:
    """Draw a token for each row by temperature, top-k, top-p and the row's uniform number.

    The cumulative sum runs in float64 and over ids in order, not over scores in order: two scores that a rounding error
    swaps then change the outcome by no more than that error.
    """
    scores = scores / sampler.temperature
    vocabulary = scores.shape[1]
    size = min(sampler.top_k or (FIRST_LOOK if sampler.top_p < 1 else vocabulary), vocabulary)
    best, ids = scores.topk(size, dim=1)
    total = torch.logsumexp(best if sampler.top_k else scores, dim=1, keepdim=True)
    weights = (best - total).double().exp()
    cumulative = weights.cumsum(dim=1)
    kept = weights * (cumulative - weights < sampler.top_p)
    ids, order = ids.sort(dim=1)
    drawn = ids.gather(1, _places(kept.gather(1, order), uniforms))[:, 0]
    if not sampler.top_k and size < vocabulary:
        flat = (cumulative[:, -1] < sampler.top_p).nonzero()[:, 0]
        if len(flat):
            drawn[flat] = _places(_kept_of_all((scores - total)[flat], sampler.top_p), uniforms[flat])[:, 0]
    return drawn


def _places(weights: Float[Tensor, "n m"], uniforms: Float[Tensor, " n"]) -> Int64[Tensor, "n 1"]:
    """For each row the column at which the cumulative sum of weights passes the share `uniforms` of their total."""
    cumulative = weights.cumsum(dim=1)
    wanted = (uniforms * cumulative[:, -1])[:, None]
    return torch.searchsorted(cumulative, wanted, right=True).clamp(max=weights.shape[1] - 1)


def _kept_of_all(logs: Float[Tensor, "n v"], top_p: float) -> Float[Tensor, "n v"]:
    """Weights over the whole vocabulary, 0 where top-p cuts, for rows whose first tokens do not reach `top_p`."""
    if logs.is_cuda:
        falling = logs.sort(dim=1, descending=True).values
    else:  # NumPy's sort is vectorised and makes no indices: about ten times as fast as torch's.
        falling = torch.from_numpy(np.sort(logs.numpy(), axis=1)).flip(1)
    weights = falling.double().exp()
    last = (weights.cumsum(dim=1) - weights < top_p).sum(dim=1, keepdim=True) - 1
    return logs.double().exp() * (logs >= falling.gather(1, last))
