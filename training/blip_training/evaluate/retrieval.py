"""Figures of retrieval: ranks, recall among the first 1, 5 and 10, and the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64


RECALL_AT = (1, 5, 10)


def similarities(items: Float[Tensor, "n e"], texts: Float[Tensor, "t e"]) -> Float[Tensor, "n t"]:
    """The cosine of each item's embedding with each text's, both of length 1, in single precision, on the CPU.

    bfloat16 has 256 steps between 0.5 and 1: many would be equal, and the rank of a right one be lost.
    """
    with torch.autocast(items.device.type, enabled=False):
        return (items.float() @ texts.float().T).cpu()


def best_ranks(scores: Float[Tensor, "q c"], right: Bool[Tensor, "q c"]) -> Int64[Tensor, " q"]:
    """For each query the rank (0: first) of its best right candidate.

    Wrong candidates of equal score rank before it, so that a model that scores everything alike finds nothing; and so
    do all of them where a score is NaN.
    """
    best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return (~(scores < best) & ~right).sum(1)


def first_of(scores: Float[Tensor, "q c"], count: int) -> Bool[Tensor, "q c"]:
    """A mask of the `count` highest scores of each row."""
    places = scores.topk(min(count, scores.shape[1]), dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, places, True)


def recalls(ranks: Int64[Tensor, " q"], prefix: str) -> dict[str, float]:
    """Recall at k = 1, 5, 10 as `<prefix>k`: the share of queries (0..1) whose rank is below k."""
    return {f"{prefix}{k}": float((ranks < k).double().mean()) for k in RECALL_AT}


def area_under_curve(right: Sequence[float], wrong: Sequence[float]) -> float:
    """The probability (0..1) that a right pair scores above a wrong one; equal scores count half."""
    wrong_sorted = torch.tensor(wrong, dtype=torch.float64).sort().values
    scores = torch.tensor(right, dtype=torch.float64)
    below = torch.searchsorted(wrong_sorted, scores, right=False)
    not_above = torch.searchsorted(wrong_sorted, scores, right=True)
    return float(((below + not_above).double() / 2).mean() / len(wrong_sorted))
