"""The score that cuts off a share of all texts, found by counting in bins: memory does not grow with the texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import duckdb
import numpy as np

from blip_bootstrap.sql_text import scan, text_list

NUM_BINS = 65_536
_WIDEST = 3.5e38
"""Beyond the largest finite float32: stands for infinity, with which one cannot count."""


@dataclass(frozen=True)
class ScoreCut:
    """A score, and what share of the texts, 0..1, has it or a higher one."""

    at: float
    share: float


def find_score_cut(files: Sequence[Path], column: str, sources: Sequence[str], share: float) -> ScoreCut:
    """The highest score that at least `share` (0..1) of the scored texts of `sources` reach, to the text.

    Texts of the same score have the same fate: the share is met to the row but for those that have the cut's own score,
    and where all scores are equal, all texts reach it. A share of 0 gives a cut above every score; no scores at all, 0.

    Counts the texts in equal bins between the least and the highest score, then again within the bin where the cut
    lies, until that holds one score: two or three readings of the column, where a sort of it would fill the memory.
    """
    with duckdb.connect() as connection:
        texts = (
            f"(SELECT greatest(-{_WIDEST}, least({_WIDEST}, {column}::DOUBLE)) AS score FROM {scan(files)} "
            f"WHERE NOT isnan({column}) AND list_contains({text_list(sources)}, source))"
        )
        ((number, low, high),) = connection.execute(f"SELECT count(*), min(score), max(score) FROM {texts}").fetchall()
        wanted = math.ceil(Fraction(repr(share)) * number)
        if not wanted:
            return ScoreCut(_above(high) if number else 0.0, 0.0)
        above = 0
        while low < high:
            width = f"({high!r}::DOUBLE - {low!r}::DOUBLE)"
            bins = connection.execute(
                f"SELECT floor((score - {low!r}::DOUBLE) / {width} * {NUM_BINS - 1})::INTEGER AS bin, count(*), "
                f"min(score), max(score) FROM {texts} WHERE score BETWEEN {low!r}::DOUBLE AND {high!r}::DOUBLE "
                "GROUP BY bin ORDER BY bin DESC"
            ).fetchall()
            above, low, high = _bin_of_cut([one[1:] for one in bins], above, wanted)
        ((reached,),) = connection.execute(f"SELECT count(*) FROM {texts} WHERE score >= {low!r}::DOUBLE").fetchall()
    return ScoreCut(low if abs(low) < _WIDEST else math.copysign(math.inf, low), reached / number)


def _bin_of_cut(bins: Iterable[tuple[int, float, float]], above: int, wanted: int) -> tuple[int, float, float]:
    """The bin of the cut, of (texts, least, highest score), highest first: texts above it, and its two ends."""
    for number, low, high in bins:
        if above + number >= wanted:
            return above, low, high
        above += number
    raise AssertionError("fewer texts than a moment ago")


def _above(score: float) -> float:
    """The next number in single precision."""
    return float(np.nextafter(np.float32(min(score, np.finfo(np.float32).max)), np.float32(np.inf)))
