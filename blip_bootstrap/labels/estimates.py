"""Spot checks: a sample of texts for people to answer, and what the answers say about noise, precision and recall."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from blip_bootstrap.storage.labels import read_labels
from blip_bootstrap.storage.run_folder import labels_path, resolve_round

Z = 1.96


@dataclass(frozen=True)
class Estimate:
    """A share 0..1 with its 95 % interval, and the number of answers that it rests on."""

    name: str
    source: str
    share: float | None
    low: float | None
    high: float | None
    num_answers: int


def estimates(root: Path, number: int | None = None) -> list[Estimate]:
    """What the answers to a round's sample say of the whole round, by source and pooled.

    `noise`: texts that do not fit by people's answers, of all texts of the source, where the audits' `noise_ratio` is
    the filter's own verdict; `noise_kept`: of the kept ones; `precision` is its rest; `recall`: kept of those that
    fit. `unsure` counts as no answer. Intervals are Wilson's with the number of answers that a plain sample would need
    for the stratified one's variance; recall's come from those of the strata.
    """
    rows = read_labels(labels_path(root, resolve_round(root, number)))
    sources = sorted({row["source"] for row in rows}, reverse=True)
    found: list[Estimate] = []
    for source in [*sources, *(["all"] if len(sources) > 1 else [])]:
        mine = [row for row in rows if source in ("all", row["source"])]
        found += estimates_of(source, mine)
    return found


def estimates_of(source: str, rows: Iterable[Mapping[str, Any]]) -> list[Estimate]:
    """The four estimates from answered rows of `LABELS`, named as of `source`."""
    cells = _cells(rows)
    kept = [cell for (_, is_kept), cell in cells.items() if is_kept]
    noise, noise_kept = _share("noise", source, cells.values()), _share("noise_kept", source, kept)
    right = Estimate("precision", source, *_rest(noise_kept), noise_kept.num_answers)
    return [noise, noise_kept, right, _recall(source, cells)]


@dataclass(frozen=True)
class _Cell:
    """A stratum: its rows in the round, the answers, and how many of them are no."""

    rows: int
    answers: int
    wrong: int


def _cells(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, bool], _Cell]:
    grouped: dict[tuple[str, bool], list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["source"], row["kept"]), []).append(row)
    return {
        name: _Cell(
            group[0]["stratum_rows"],
            sum(row["answer"] in ("yes", "no") for row in group),
            sum(row["answer"] == "no" for row in group),
        )
        for name, group in grouped.items()
    }


def _share(name: str, source: str, cells: Iterable[_Cell]) -> Estimate:
    """The stratified share of wrong texts."""
    cells = [cell for cell in cells if cell.rows]
    number = sum(cell.answers for cell in cells)
    if not cells or any(cell.answers == 0 for cell in cells):
        return Estimate(name, source, None, None, None, number)
    total = sum(cell.rows for cell in cells)
    share = sum(cell.rows / total * cell.wrong / cell.answers for cell in cells)
    variance = sum((cell.rows / total) ** 2 * _variance(cell) for cell in cells)
    smoothed = (share * number + 1) / (number + 2)
    low, high = wilson(share, smoothed * (1 - smoothed) / variance)
    return Estimate(name, source, share, low, high, number)


def _variance(cell: _Cell) -> float:
    """Of the cell's share; one answer of each kind added, so that 0 of 5 is not taken for certainty."""
    share = (cell.wrong + 1) / (cell.answers + 2)
    return share * (1 - share) / cell.answers


def _recall(source: str, cells: Mapping[tuple[str, bool], _Cell]) -> Estimate:
    """Kept texts that fit, of all that fit; the interval takes the ends of kept's and dropped's intervals."""
    kept = [cell for (_, is_kept), cell in cells.items() if is_kept]
    dropped = [cell for (_, is_kept), cell in cells.items() if not is_kept]
    in_kept, in_dropped = _share("", source, kept), _share("", source, dropped)
    number = in_kept.num_answers + in_dropped.num_answers
    if in_kept.share is None or in_dropped.share is None:
        return Estimate("recall", source, None, None, None, number)
    rows_kept, rows_dropped = sum(cell.rows for cell in kept), sum(cell.rows for cell in dropped)

    def recall(wrong_kept: float | None, wrong_dropped: float | None) -> float | None:
        good_kept, good_dropped = (1 - (wrong_kept or 0)) * rows_kept, (1 - (wrong_dropped or 0)) * rows_dropped
        return good_kept / (good_kept + good_dropped) if good_kept + good_dropped else None

    low, high = recall(in_kept.high, in_dropped.low), recall(in_kept.low, in_dropped.high)
    return Estimate("recall", source, recall(in_kept.share, in_dropped.share), low, high, number)


def _rest(wrong: Estimate) -> tuple[float | None, float | None, float | None]:
    if wrong.share is None or wrong.low is None or wrong.high is None:
        return None, None, None
    return 1 - wrong.share, 1 - wrong.high, 1 - wrong.low


def wilson(share: float, number: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share seen in `number` answers, which may be a fraction."""
    centre = (share + Z * Z / (2 * number)) / (1 + Z * Z / number)
    half = Z * math.sqrt(share * (1 - share) / number + Z * Z / (4 * number * number)) / (1 + Z * Z / number)
    return max(0.0, centre - half), min(1.0, centre + half)


def estimates_table(found: Iterable[Estimate]) -> pa.Table:
    """Estimates as Arrow, for printing."""
    return pa.Table.from_pylist([vars(one) for one in found])
