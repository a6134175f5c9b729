"""Draws tokens in transformers' `generate` so that each row depends on its own seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blip_training.decoding.sampler import Sampler
from blip_training.decoding.sampling import draw_tokens, seeded_uniforms


class SeededTokens:
    """A logits processor that leaves one token in each row: the one that the row's seed draws.

    `generate` draws all rows from one generator, so that a row would depend on how many others there are. It is to be
    called greedily, with this as the last processor. `ends` are the tokens that end a text.
    """

    def __init__(self, seeds: Sequence[int], sampler: Sampler, ends: Sequence[int]) -> None:
        self._sampler, self._ends = sampler, torch.tensor(list(ends) or [-1])
        self._uniforms = seeded_uniforms(seeds, sampler.max_tokens)
        self._drawn: list[Tensor] = []
        self._logs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [n, v] in which all tokens but the drawn one are impossible."""
        logits = scores.float()
        at = len(self._drawn)
        if self._sampler.sample:
            drawn = draw_tokens(logits, self._uniforms[:, at].to(logits.device), self._sampler)
        else:
            drawn = logits.argmax(1)
        self._logs.append(logits.log_softmax(1).gather(1, drawn[:, None])[:, 0].double().cpu())
        self._drawn.append(drawn.cpu())
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn[:, None], 0.0)

    def tokens(self, row: int) -> tuple[list[int], bool]:
        """The ids of a row before its end, and whether it has one: else the text was cut."""
        ids = [int(drawn[row]) for drawn in self._drawn]
        ends = set(self._ends.tolist())
        end = next((at for at, token in enumerate(ids) if token in ends), None)
        return (ids, False) if end is None else (ids[:end], True)

    def logprob(self, row: int) -> float:
        """The log-likelihood of a row's tokens and of its end, nats, without temperature or cuts."""
        ids, ended = self.tokens(row)
        return float(sum(float(log[row]) for log in self._logs[: len(ids) + ended]))
