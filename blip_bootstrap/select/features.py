"""What the learned rule reads of a text: each score and the length, as numbers in Python and as SQL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from blip_bootstrap.query.rule_score import CLIP, FARTHEST, LENGTHS, feature_sql
from blip_bootstrap.query.sql_text import literal, scan
from blip_bootstrap.query.verdicts import SCORE_COLUMNS

Floats = NDArray[np.float64]

NAMES = (*SCORE_COLUMNS, *LENGTHS)


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of a feature over the texts of a source, and the share of texts that have it."""

    mean: float
    sd: float
    share: float


def feature_of(row: Mapping[str, Any], name: str) -> float:
    """A feature of a row of `LABELS` or `captions`, equal to its SQL; NaN where the row lacks it."""
    if name in LENGTHS:
        words = float((row["caption"] or "").count(" ") + 1)
        return words if name == "words" else math.log(words)
    value = row.get(SCORE_COLUMNS[name])
    if value is None or not math.isfinite(value):
        return math.nan
    clipped = min(max(float(value), CLIP), 1 - CLIP)
    return math.log(clipped) - math.log(1 - clipped) if name == "itm" else float(value)


def find_moments(files: Sequence[Path], source: str) -> dict[str, Moments]:
    """The moments of every feature that texts of a source have, over all of them."""
    with duckdb.connect() as connection:
        there = {str(row[0]) for row in connection.execute(f"DESCRIBE FROM {scan(files)}").fetchall()}
        names = [name for name in NAMES if SCORE_COLUMNS.get(name, "caption") in there]
        asked = ", ".join(
            f"avg({feature_sql(name)}), stddev_pop({feature_sql(name)}), count({feature_sql(name)})" for name in names
        )
        # One thread: a sum of floats depends on its order, and a rule must not depend on the number of cores.
        (found,) = connection.execute(
            f"SET threads = 1; SELECT count(*), {asked} FROM {scan(files)} WHERE source = {literal(source)} "
            "AND coalesce(caption, '') <> ''"
        ).fetchall()
    number, cells = found[0], found[1:]
    of = {name: cells[3 * at : 3 * at + 3] for at, name in enumerate(names)}
    return {
        name: Moments(float(f"{mean:.9g}"), float(f"{sd:.9g}"), count / number)
        for name, (mean, sd, count) in of.items()
        if count
    }


def standardised(rows: Sequence[Mapping[str, Any]], moments: Mapping[str, Moments]) -> Floats:
    """Features of shape (rows, features) in standard deviations from the mean, cut at `FARTHEST`; 0 where missing."""
    found = np.array([[feature_of(row, name) for name in moments] for row in rows], dtype=np.float64)
    found = found.reshape(len(rows), len(moments))
    means, sds = (np.array([getattr(one, part) for one in moments.values()]) for part in ("mean", "sd"))
    away: Floats = np.clip(np.nan_to_num((found - means) / sds, nan=0.0), -FARTHEST, FARTHEST)
    return away
