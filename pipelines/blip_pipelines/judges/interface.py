"""What a judge is: a small class that loads a model, or names a server, and scores texts beside their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from PIL.Image import Image

from blip_pipelines.captioners.interface import VARIES_WITH, VariesWith

__all__ = ["VARIES_WITH", "Judge", "Pair", "Scores", "VariesWith"]

Pair = tuple[Image, str]
"""A picture, RGB as it is stored, and a text about it, whitespace folded and not empty."""


class Scores(dict[str, float | None]):
    """The scores of one pair by name, None where there is none; `error` then says why.

    Any mapping will do in its place; a score that lacks without a reason is noted as `not_judged`.
    """

    error: str | None = None
    """Of `closed_lists.NO_SCORES`."""

    @classmethod
    def failed(cls, names: Sequence[str], error: str) -> Scores:
        """No scores of these names, for a reason of `closed_lists.NO_SCORES`."""
        found = cls(dict.fromkeys(names))
        found.error = error
        return found


@runtime_checkable
class Judge(Protocol):
    """Scores texts beside their pictures.

    A worker makes one of the judge's options, loads it once, and has it score batch after batch from one thread. Where
    it has no memory (torch.OutOfMemoryError, MemoryError) or raises another error, fewer pairs come at a time, until
    one comes alone, whose scores then lack with a reason. Errors of this project (BlipBootstrapError) end the run.
    """

    names: tuple[str, ...]
    """What it scores, each in lower case. One that has a single score has it in the tables under the judge's own name,
    one that has several has them as `judge_score`."""

    varies_with: VariesWith
    """What its scores may change with beside picture and text. nothing: they are the same to the last digit; device:
    but for float noise, whatever is scored together; batch, server: weaker. It is kept beside the scores, and
    `conformance` holds it to it."""

    @property
    def digest(self) -> str:
        """What decides its scores, as a text: weights and options, without those that decide speed alone.

        Known before `load`, and quickly: it is part of the recipe, and asked for by commands that score nothing.
        """

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Check the options, and no more. Raises ConfigError, one line for each mistake, `option: what is wrong`."""

    def load(self, device: str, dtype: str) -> None:
        """Load the weights, or open connections. `device` is cpu or cuda, `dtype` float32 or bfloat16.

        Raises CheckpointError or InputError where they cannot be used.
        """

    def score(self, pairs: Sequence[Pair]) -> Sequence[Mapping[str, float | None]]:
        """For each pair, in order, its score of each of `names`; a higher one means that the text fits better."""
