"""A text's rank by a score among all scored texts of its source, found by counting in bins, without a sort."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np

from blip_bootstrap.query.rule_score import NUM_RANK_BINS, WIDEST, Ranks, bin_sql, scale_sql
from blip_bootstrap.query.sql_text import is_number, literal, scan, text_list
from blip_bootstrap.query.verdicts import stored_in
from blip_bootstrap.select.score_cut import find_score_cut

_TAIL = 0.005
"""Bins are equal steps between the scores that .5 % and 99.5 % of the texts stay below: a lone -1e30 would put all the
others into one bin. What lies outside falls into the first and the last bin."""


def find_ranks(files: Sequence[Path], column: str, source: str) -> Ranks | None:
    """The ranks of the texts of one source by a column of `captions`; None where none of them has that score.

    Reads the column six times at most, and keeps the counts of `NUM_RANK_BINS` bins.
    """
    low, high = (_scaled(column, find_score_cut(files, column, (source,), share).at) for share in (1 - _TAIL, _TAIL))
    step = (high - low) / NUM_RANK_BINS if high > low else 1.0
    x = scale_sql(column)
    with duckdb.connect() as connection:
        bins = connection.execute(
            f"SELECT {bin_sql(x, low, step)} AS bin, count(*), min({x}), max({x}) FROM {scan(files)} "
            f"WHERE source = {literal(source)} AND {is_number(column)} GROUP BY bin ORDER BY bin"
        ).fetchall()
    return _ranks_of(column, low, step, bins) if bins else None


def _scaled(column: str, score: float) -> float:
    if column != "itm_score":
        return float(np.clip(score, -WIDEST, WIDEST))
    clipped = float(np.clip(score, 1e-9, 1 - 1e-9))
    return float(np.log(clipped) - np.log1p(-clipped))


def _ranks_of(column: str, low: float, step: float, bins: Sequence[tuple[int, int, float, float]]) -> Ranks:
    """Ranks from the bins that have texts: place, number, least and highest scaled score, in order."""
    origins, starts, slopes = (np.zeros(NUM_RANK_BINS) for _ in range(3))
    total, before, reached = sum(number for _, number, _, _ in bins), 0, 0
    for place, number, least, most in bins:
        starts[reached:place] = before / total  # empty bins
        is_one = most - least <= 1e-12 * max(1.0, abs(least))
        starts[place] = (before + number / 2) / total if is_one else before / total
        slopes[place] = 0 if is_one else number / total / (most - least)
        origins[place], before, reached = least, before + number, place + 1
    starts[reached:] = 1
    rounded = [tuple(float(f"{value:.9g}") for value in each) for each in (origins, starts, slopes)]
    return Ranks(column, low, step, *rounded)


def scores_there(files: Sequence[Path], columns: Sequence[str], sources: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many texts of each source have each score; captions of an earlier version may lack a column."""
    with duckdb.connect() as connection:
        names = {str(row[0]) for row in connection.execute(f"DESCRIBE FROM {scan(files)}").fetchall()}
        counted = [
            f"count(*) FILTER ({is_number(column)})" if stored_in(column) in names else "0"
            for column in dict.fromkeys(columns)
        ]
        cells = connection.execute(
            f"SELECT source, {', '.join(counted)} FROM {scan(files)} "
            f"WHERE list_contains({text_list(sources)}, source) GROUP BY source"
        ).fetchall()
    return {source: dict(zip(dict.fromkeys(columns), numbers, strict=True)) for source, *numbers in cells}
