"""Figures of retrieval by loops, from the scores of all pairs."""

from __future__ import annotations

import statistics

import torch


def plain_rank(scores: list[float], right: set[int]) -> int:
    best = max(scores[i] for i in right)
    return sum(score >= best and i not in right for i, score in enumerate(scores))


def plain_recalls(ranks: list[int], prefix: str) -> dict[str, float]:
    found = {f"{prefix}{k}": sum(rank < k for rank in ranks) / len(ranks) for k in (1, 5, 10)}
    return found | {f"{prefix}_mdr": statistics.median(rank + 1 for rank in ranks)}


def plain_figures(similar: torch.Tensor, matches: torch.Tensor, each: int, top_k: int) -> dict[str, float]:
    """By loops, from ITC similarities and ITM logits of all pairs of pictures and their texts, `each` of them."""
    own = [set(range(i * each, (i + 1) * each)) for i in range(len(similar))]
    figures: dict[str, float] = {}
    for by_itm in (False, True):
        tables = []
        for table, logits in ((similar, matches), (similar.T, matches.T)):
            rows = []
            for scores, itm in zip(table.tolist(), logits.tolist(), strict=True):
                first = sorted(range(len(scores)), key=lambda i: -scores[i])[:top_k] if by_itm else []
                rows.append([100 + s + itm[i] if i in first else s for i, s in enumerate(scores)])
            tables.append(rows)
        texts = [plain_rank(row, own[i]) for i, row in enumerate(tables[0])]
        images = [plain_rank(row, {i // each}) for i, row in enumerate(tables[1])]
        found = plain_recalls(texts, "tr") | plain_recalls(images, "ir")
        figures |= found if by_itm else {f"itc_{name}": value for name, value in found.items()}
    return figures
