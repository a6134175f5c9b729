"""Spot checks: what the answers to a sample say about noise, precision and recall of a round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from blip_bootstrap.select.enough import enough
from blip_bootstrap.select.logistic import wilson
from blip_bootstrap.storage.labels import read_labels
from blip_bootstrap.storage.run_folder import labels_path, resolve_round


@dataclass(frozen=True)
class Estimate:
    """A share 0..1 with its 95 % interval and the number of its answers; None where a stratum has no answer."""

    name: str
    source: str
    share: float | None
    low: float | None
    high: float | None
    num_answers: int


def estimates(root: Path, number: int | None = None) -> list[Estimate]:
    """What the answers to a round's sample say about the whole round, for each source and for all.

    `noise`: of all texts, the share that does not fit its picture, by people's answers (the audits' `noise_ratio` is
    what the filter rejects). `noise_kept`: of the kept texts, the share that does not fit; `precision`: the share that
    does. `recall`: of the texts that fit, the share that was kept. `unsure` counts as no answer. Intervals are
    Wilson's, for a plain sample with the variance of the stratified one; that of recall comes from those of kept and
    dropped texts.
    """
    rows = read_labels(labels_path(root, resolve_round(root, number)))
    sources = sorted({row["source"] for row in rows}, reverse=True)
    found: list[Estimate] = []
    for source in [*sources, *(["all"] if len(sources) > 1 else [])]:
        mine = [row for row in rows if source in ("all", row["source"])]
        found += estimates_of(source, mine)
    return found


def told_enough(root: Path, number: int | None = None) -> str:
    """Whether more answers to a round's sample would change a learned rule much, in a sentence for each source."""
    path = labels_path(root, resolve_round(root, number))
    return enough(read_labels(path)) or f"{path}: no answer yet that is yes or no; answer with `audit label`"


def estimates_of(source: str, rows: Iterable[Mapping[str, Any]]) -> list[Estimate]:
    """The four estimates from rows of `LABELS`; `source` is what they are called."""
    strata = _strata(rows)
    kept = [stratum for (_, is_kept), stratum in strata.items() if is_kept]
    noise, noise_kept = _share("noise", source, strata.values()), _share("noise_kept", source, kept)
    right = Estimate("precision", source, *_rest(noise_kept), noise_kept.num_answers)
    return [noise, noise_kept, right, _recall(source, strata)]


@dataclass(frozen=True)
class _Stratum:
    """The kept or the dropped texts of a source: their rows in the round, their answers, and the answers `no`."""

    rows: int
    answers: int
    wrong: int


def _strata(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, bool], _Stratum]:
    grouped: dict[tuple[str, bool], list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["source"], row["kept"]), []).append(row)
    return {
        name: _Stratum(
            group[0]["stratum_rows"],
            sum(row["answer"] in ("yes", "no") for row in group),
            sum(row["answer"] == "no" for row in group),
        )
        for name, group in grouped.items()
    }


def _share(name: str, source: str, strata: Iterable[_Stratum]) -> Estimate:
    """The share of texts that do not fit, each stratum weighted by its rows in the round."""
    strata = [stratum for stratum in strata if stratum.rows]
    number = sum(stratum.answers for stratum in strata)
    if not strata or any(stratum.answers == 0 for stratum in strata):
        return Estimate(name, source, None, None, None, number)
    total = sum(stratum.rows for stratum in strata)
    share = sum(stratum.rows / total * stratum.wrong / stratum.answers for stratum in strata)
    variance = sum((stratum.rows / total) ** 2 * _variance(stratum) for stratum in strata)
    smoothed = (share * number + 1) / (number + 2)
    low, high = wilson(share, smoothed * (1 - smoothed) / variance)
    return Estimate(name, source, share, low, high, number)


def _variance(stratum: _Stratum) -> float:
    """The variance of a stratum's share; one yes and one no are added, so that 0 of 5 is not taken for certain."""
    share = (stratum.wrong + 1) / (stratum.answers + 2)
    return share * (1 - share) / stratum.answers


def _recall(source: str, strata: Mapping[tuple[str, bool], _Stratum]) -> Estimate:
    """The share of fitting texts that was kept; its interval is made of the ends of those of kept and dropped texts."""
    kept = [stratum for (_, is_kept), stratum in strata.items() if is_kept]
    dropped = [stratum for (_, is_kept), stratum in strata.items() if not is_kept]
    in_kept, in_dropped = _share("", source, kept), _share("", source, dropped)
    number = in_kept.num_answers + in_dropped.num_answers
    if in_kept.share is None or in_dropped.share is None:
        return Estimate("recall", source, None, None, None, number)
    rows_kept, rows_dropped = sum(stratum.rows for stratum in kept), sum(stratum.rows for stratum in dropped)

    def recall(wrong_kept: float | None, wrong_dropped: float | None) -> float | None:
        good_kept, good_dropped = (1 - (wrong_kept or 0)) * rows_kept, (1 - (wrong_dropped or 0)) * rows_dropped
        return good_kept / (good_kept + good_dropped) if good_kept + good_dropped else None

    low, high = recall(in_kept.high, in_dropped.low), recall(in_kept.low, in_dropped.high)
    return Estimate("recall", source, recall(in_kept.share, in_dropped.share), low, high, number)


def _rest(wrong: Estimate) -> tuple[float | None, float | None, float | None]:
    if wrong.share is None or wrong.low is None or wrong.high is None:
        return None, None, None
    return 1 - wrong.share, 1 - wrong.high, 1 - wrong.low


def estimates_table(found: Iterable[Estimate]) -> pa.Table:
    """Estimates as Arrow, for printing."""
    return pa.Table.from_pylist([vars(one) for one in found])
