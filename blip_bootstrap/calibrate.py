"""From labelled texts to the threshold that meets a target noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from blip_bootstrap.errors import InputError
from blip_bootstrap.labels import read_labels
from blip_bootstrap.sql_text import scan, text_list

Floats = NDArray[np.float64]
BINS = 1000
LEAST_ANSWERS = 5
RESAMPLES = 200
HUMAN = "human"
"""The source of labels that `human_pairs` makes."""


@dataclass(frozen=True)
class Calibrated:
    """A threshold on the ITM score with what it will do, 0..1 each, and 95 % intervals from resampled labels."""

    threshold: float
    noise: float
    noise_low: float
    noise_high: float
    recall: float
    recall_low: float
    recall_high: float
    num_labels: int


def calibrate(captions: Sequence[Path], labels: Path, sources: Sequence[str], target_noise: float) -> Calibrated:
    """The lowest ITM threshold at which at most `target_noise` of the kept texts do not fit their pictures.

    P(fits | score) is fitted to the answered labels (beta calibration: a logistic curve over ln s and ln(1-s)), each
    source by itself where both answers were given often enough; the expected noise at each threshold follows from the
    scores of all texts. Labels of the source `human` say how scores of right and wrong texts lie, not how many are
    right: that is found from the scores of all texts (`_with_share`), as if wrong web texts were scored as shuffled
    human ones are. Raises InputError where there are too few answers, or no threshold reaches the target.
    """
    rows = [row for row in read_labels(labels) if row["answer"] in ("yes", "no") and row["itm_score"] is not None]
    rows = [row for row in rows if row["source"] in (*sources, HUMAN)]
    if min(sum(row["answer"] == answer for row in rows) for answer in ("yes", "no")) < LEAST_ANSWERS:
        raise InputError(f"{labels}: at least {LEAST_ANSWERS} texts answered yes and as many answered no are needed")
    counts = _histograms(captions, sources)
    noise, recall = _curves(rows, counts)
    reached = np.flatnonzero(noise <= target_noise)
    if not len(reached):
        raise InputError(
            f"{labels}: no threshold keeps noise down to {target_noise:.3g}; the least is {np.nanmin(noise):.3g} "
            f"at {np.nanargmin(noise) / BINS:.3g}"
        )
    at = int(reached[0])
    (noise_low, noise_high), (recall_low, recall_high) = _intervals(rows, counts, at)
    found = (float(noise[at]), noise_low, noise_high, float(recall[at]), recall_low, recall_high)
    return Calibrated(at / BINS, *found, len(rows))


def _histograms(captions: Sequence[Path], sources: Sequence[str]) -> dict[str, Floats]:
    """Texts of each source in each of BINS equal bins of the ITM score."""
    counts = {source: np.zeros(BINS) for source in sources}
    with duckdb.connect() as connection:
        cells = connection.execute(
            f"SELECT source, least(floor(itm_score * {BINS}), {BINS - 1})::INTEGER AS bin, count(*) "
            f"FROM {scan(captions)} WHERE itm_score IS NOT NULL AND list_contains({text_list(sources)}, source) "
            "GROUP BY source, bin"
        ).fetchall()
    for source, at, number in cells:
        counts[source][at] = number
    return counts


def _curves(rows: Sequence[dict[str, Any]], counts: dict[str, Floats]) -> tuple[Floats, Floats]:
    """Expected noise among the kept, and recall, at every threshold that is a bin's lower edge."""
    centres = (np.arange(BINS) + 0.5) / BINS
    texts, good = np.zeros(BINS), np.zeros(BINS)
    for source, number in counts.items():
        mine = [row for row in rows if row["source"] == source]
        enough = min(sum(row["answer"] == answer for row in mine) for answer in ("yes", "no")) >= LEAST_ANSWERS
        probability = _probability(centres, _fit(mine if enough else rows))
        if not enough and all(row["source"] == HUMAN for row in rows):
            probability = _with_share(probability, number, sum(row["answer"] == "yes" for row in rows) / len(rows))
        texts += number
        good += number * probability
    kept, kept_good = np.cumsum(texts[::-1])[::-1], np.cumsum(good[::-1])[::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        noise = np.where(kept > 0, 1 - kept_good / kept, np.nan)
    return noise, kept_good / max(kept_good[0], 1e-12)


def _with_share(probability: Floats, number: Floats, share: float) -> Floats:
    """P(fits | score) for texts of which another share fits than the `share` that the curve was fitted to.

    The share that explains the scores of all texts best, by expectation and maximisation (Saerens et al. 2002).
    """
    likelihood = probability / (1 - probability) * (1 - share) / share
    found, fits = share, probability
    for _ in range(500):
        fits = found * likelihood / (found * likelihood + 1 - found)
        was, found = found, min(max(float((number * fits).sum() / max(number.sum(), 1)), 1e-6), 1 - 1e-6)
        if abs(found - was) < 1e-5:
            break
    return fits


def _features(scores: Floats) -> Floats:
    clipped = np.clip(scores, 1e-4, 1 - 1e-4)
    return np.stack([np.log(clipped), -np.log1p(-clipped), np.ones_like(clipped)], axis=1)


def _probability(scores: Floats, weights: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-np.clip(_features(scores) @ weights, -30, 30)))
    return found


def _fit(rows: Sequence[dict[str, Any]]) -> Floats:
    """Logistic regression by Newton's method; a small ridge keeps perfectly parted labels from running away."""
    scores = np.array([row["itm_score"] for row in rows], dtype=np.float64)
    answers = np.array([row["answer"] == "yes" for row in rows], dtype=np.float64)
    design, weights = _features(scores), np.zeros(3)
    ridge = np.diag([0.1, 0.1, 1e-6])
    for _ in range(50):
        probability = _probability(scores, weights)
        slope = design.T @ (answers - probability) - ridge @ weights
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, slope)
        weights = weights + step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def _intervals(
    rows: Sequence[dict[str, Any]], counts: dict[str, Floats], at: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """2.5 % and 97.5 % quantiles of noise and recall at one threshold over resampled labels."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        drawn = [rows[at] for at in rng.integers(len(rows), size=len(rows))]
        if len({row["answer"] for row in drawn}) == 2:
            noise, recall = _curves(drawn, counts)
            found.append((noise[at], recall[at]))
    low, high = np.nanquantile(np.array(found), [0.025, 0.975], axis=0)
    return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))
