"""Retrieval between held-out pictures and texts: recall among the first 1, 5 and 10, and the area under ITM's curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64


RECALL_AT = (1, 5, 10)


def best_ranks(scores: Float[Tensor, "q c"], right: Bool[Tensor, "q c"]) -> Int64[Tensor, " q"]:
    """For each query the rank (0: first) of its best right candidate.

    Wrong candidates with an equal score stand before it, so that a model that scores everything alike finds nothing.
    """
    best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return ((scores >= best) & ~right).sum(1)


def first_of(scores: Float[Tensor, "q c"], count: int) -> Bool[Tensor, "q c"]:
    """Where the `count` highest of each row are."""
    places = scores.topk(min(count, scores.shape[1]), dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, places, True)


def recalls(ranks: Int64[Tensor, " q"], prefix: str) -> dict[str, float]:
    """`<prefix>1`, `<prefix>5`, `<prefix>10`: the share of queries (0..1) found among the first so many."""
    return {f"{prefix}{k}": float((ranks < k).double().mean()) for k in RECALL_AT}


def area_under_curve(right: Sequence[float], wrong: Sequence[float]) -> float:
    """The probability (0..1) that a right pair scores above a wrong one; equal scores count half."""
    wrong_sorted = torch.tensor(wrong, dtype=torch.float64).sort().values
    scores = torch.tensor(right, dtype=torch.float64)
    below = torch.searchsorted(wrong_sorted, scores, right=False)
    not_above = torch.searchsorted(wrong_sorted, scores, right=True)
    return float(((below + not_above).double() / 2).mean() / len(wrong_sorted))
