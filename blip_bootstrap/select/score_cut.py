"""The score that cuts off a share of all texts, found by counting in bins: memory does not grow with the texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from blip_bootstrap.query.sql_text import is_number, scan, text_list

NUM_BINS = 65_536

_WIDEST = 3.5e38
"""A number beyond the largest float32, which stands for infinity in the arithmetic of the bins."""


@dataclass(frozen=True)
class ScoreCut:
    """A score, and what share of the texts, 0..1, has it or a higher one."""

    at: float
    share: float


def find_score_cut(files: Sequence[Path], column: str, sources: Sequence[str], share: float) -> ScoreCut:
    """The highest score that at least `share` (0..1) of the scored texts of `sources` reach, to the text.

    Texts of the same score are kept or dropped together, so the share is exceeded only by texts that have the cut's own
    score; where all scores are equal, all texts reach it. A share of 0 gives a cut above every score; where no text has
    a score, the cut is 0.

    `column` may be SQL. Counts the texts in equal bins between the least and the highest score, then again within the
    bin where the cut lies, until that holds one score: the column is read two or three times, where sorting it would
    fill the memory.
    """
    with duckdb.connect() as connection:
        texts = _texts_sql(files, column, sources)
        number, low, high = _row(connection, f"SELECT count(*), min(score), max(score) FROM {texts}")
        wanted = math.ceil(Fraction(repr(share)) * number)
        if not wanted:
            return ScoreCut(_above(high) if number else 0.0, 0.0)
        above, within = 0, number
        while low < high:
            bins = connection.execute(_bins_sql(texts, low, high)).fetchall()
            above, within, low, high = _bin_of_cut(bins, above, wanted)
    return ScoreCut(low if abs(low) < _WIDEST else math.copysign(math.inf, low), (above + within) / number)


def _texts_sql(files: Sequence[Path], column: str, sources: Sequence[str]) -> str:
    """SQL of the scores of the scored texts of `sources`."""
    score = f"greatest(-{_WIDEST}, least({_WIDEST}, s::DOUBLE)) AS score"
    # Behind unnest a long expression is computed once a row; a filter on it alone would compute it up to five times.
    own = column if column.isidentifier() else f"unnest([{column}])"
    of_sources = f"SELECT {own} AS s FROM {scan(files)} WHERE list_contains({text_list(sources)}, source)"
    return f"(SELECT {score} FROM ({of_sources}) WHERE {is_number('s')})"


def _row(connection: duckdb.DuckDBPyConnection, question: str) -> tuple[Any, ...]:
    (row,) = connection.execute(question).fetchall()
    return tuple(row)


def _bins_sql(texts: str, low: float, high: float) -> str:
    """SQL that counts the texts from `low` to `high` in bins, the highest first: texts, least and highest score."""
    place = f"floor((score - {low!r}::DOUBLE) / ({high!r}::DOUBLE - {low!r}::DOUBLE) * {NUM_BINS - 1})"
    return (
        f"SELECT count(*), min(score), max(score) FROM {texts} "
        f"WHERE score BETWEEN {low!r}::DOUBLE AND {high!r}::DOUBLE GROUP BY {place}::INTEGER ORDER BY 2 DESC"
    )


def _bin_of_cut(bins: Iterable[tuple[int, float, float]], above: int, wanted: int) -> tuple[int, int, float, float]:
    """The numbers of texts above the bin that holds the cut and in it, and that bin's least and highest score.

    `bins` are as `_bins_sql` has them, and `above` is how many texts are above all of these.
    """
    for number, low, high in bins:
        if above + number >= wanted:
            return above, number, low, high
        above += number
    raise AssertionError("fewer texts than a moment ago")


def _above(score: float) -> float:
    """The next higher number in single precision."""
    if score >= float(np.finfo(np.float32).max):
        return math.inf
    return float(np.nextafter(np.float32(score), np.float32(np.inf)))
