"""The threshold that meets a target noise, found from labelled texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blip_bootstrap.errors import InputError
from blip_bootstrap.query.sql_text import scan, text_list
from blip_bootstrap.storage.labels import read_labels

Floats = NDArray[np.float64]

LEAST_ANSWERS = 5

DRAWS = 400

HUMAN = "human"
"""The source of the labels that `human_pairs` makes."""

_STEP = 0.02

_REACH = 800
"""Bins are equal steps of the log-odds, since a sharp filter puts half of its scores above .999; those of float32 end
at 16."""

NUM_BINS = 2 * _REACH

_EDGES: Floats = np.arange(-_REACH, _REACH, dtype=np.float64) * _STEP

_RIDGE = np.diag([0.1, 0.1, 0.01])
"""Prior precision of the weights: a wide prior that keeps them finite where a score separates the labels perfectly."""


class NoThresholdError(InputError):
    """No threshold keeps noise down to the target."""


@dataclass(frozen=True)
class Calibrated:
    """A threshold on the ITM score, and the noise and recall expected of it, 0..1, with their 95 % intervals."""

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

    P(fits | score) is a logistic curve over ln s and ln(1-s) (beta calibration), fitted to each source by itself where
    both answers were given often enough. Figures are means, and intervals hold 95 %, over curves drawn from the
    posterior of the weights: the single best curve is too sure of the highest scores, and a threshold chosen by it ends
    above the target. The noise expected at a threshold follows from the scores of all texts.

    Assumes that the answered texts were drawn by source and score alone, and that the answers are right. Labels of the
    source `human` say how right and wrong texts are scored, not how many are right; that follows from the scores of all
    texts (`_with_share`). It assumes that right web texts are scored like human captions, and wrong ones like web texts
    beside another picture: a text of the picture itself that is cut or shuffled may count as right.

    Raises InputError where there are too few answers, or no threshold reaches the target.
    """
    rows = [row for row in read_labels(labels) if row["answer"] in ("yes", "no") and _is_score(row["itm_score"])]
    rows = [row for row in rows if row["source"] in (*sources, HUMAN)]
    if min(_answers(rows)) < LEAST_ANSWERS:
        raise InputError(f"{labels}: at least {LEAST_ANSWERS} texts answered yes and as many answered no are needed")
    try:
        return find_threshold(rows, histograms(captions, sources), target_noise)
    except ValueError as error:
        raise NoThresholdError(f"{labels}: {error}") from error


def _is_score(score: float | None) -> bool:
    return score is not None and not math.isnan(score)


def thresholds_table(
    captions: Sequence[Path], labels: Path, sources: Sequence[str], targets: Sequence[float] = (0.05, 0.1, 0.2)
) -> pa.Table:
    """The threshold for each target noise with its expected noise and recall; nulls where none reaches the target."""
    rows = []
    for target in targets:
        try:
            found = vars(calibrate(captions, labels, sources, target))
        except NoThresholdError:
            found = dict.fromkeys(field.name for field in fields(Calibrated))
        rows.append({"target_noise": target, **found})
    return pa.Table.from_pylist(rows).drop_columns(["num_labels"])


def find_threshold(rows: Sequence[Mapping[str, Any]], counts: Mapping[str, Floats], target_noise: float) -> Calibrated:
    """The lowest threshold that meets the target, from answered rows of `LABELS` and the texts of each source by bin.

    Raises ValueError where no threshold reaches the target.
    """
    return find_common_threshold(dict.fromkeys(counts, rows), counts, target_noise)


def find_common_threshold(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], counts: Mapping[str, Floats], target_noise: float
) -> Calibrated:
    """The same, where the answered rows for each source are known, as those of rules of their own."""
    noise, recall = _shares(*_curves(rows, counts))
    expected = noise.mean(axis=1)
    reached = np.flatnonzero(expected <= target_noise)
    if not len(reached):
        raise ValueError(
            f"no threshold keeps noise down to {target_noise:.3g}; the least is {np.nanmin(expected):.3g} "
            f"at {threshold_of(int(np.nanargmin(expected))):.4g}"
        )
    at = int(reached[0])
    return Calibrated(threshold_of(at), *_summary(noise[at]), *_summary(recall[at]), _number(rows))


def expected_at(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], counts: Mapping[str, Floats], cuts: Mapping[str, float]
) -> Calibrated:
    """Expected noise and recall where each source has its own cut; the threshold is the least of them.

    A cut counts as the lower edge of its bin. Noise is NaN where nothing is kept.
    """
    parts = []
    for source, number in counts.items():
        kept = _curves({source: rows[source]}, {source: number})
        at = int(bin_of(np.array([cuts[source]]))[0]) if cuts[source] < 1 else NUM_BINS
        parts.append([np.append(each, np.zeros((1, each.shape[1])), axis=0)[[0, at]] for each in kept])
    noise, recall = _shares(*(np.sum([part[of] for part in parts], axis=0) for of in (0, 1)))
    return Calibrated(min(cuts.values()), *_summary(noise[1]), *_summary(recall[1]), _number(rows))


def _number(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> int:
    """How many answered rows there are, those that serve several sources once."""
    return sum(len(each) for each in {id(each): each for each in rows.values()}.values())


def _summary(drawn: Floats) -> tuple[float, float, float]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(drawn.mean()), float(low), float(high)


def bin_of(scores: Floats) -> NDArray[np.int64]:
    """The bin of each score, equal steps of its log-odds."""
    clipped = np.clip(scores, 1e-9, 1 - 1e-9)
    places = np.floor((np.log(clipped) - np.log1p(-clipped)) / _STEP).astype(np.int64)
    return np.clip(places + _REACH, 0, NUM_BINS - 1)


def threshold_of(at: int) -> float:
    """The lower edge of a bin, as a score."""
    return float(_sigmoid(_EDGES[at : at + 1])[0])


def _answers(rows: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    right = sum(row["answer"] == "yes" for row in rows)
    return right, len(rows) - right


def histograms(captions: Sequence[Path], sources: Sequence[str], score: str = "itm_score") -> dict[str, Floats]:
    """The number of texts of each source in each bin of a probability: of the ITM score, or of SQL that gives one."""
    counts = {source: np.zeros(NUM_BINS) for source in sources}
    place = f"floor((ln(score) - ln(1 - score)) / {_STEP})::INTEGER + {_REACH}"
    with duckdb.connect() as connection:
        cells = connection.execute(
            f"SELECT source, greatest(0, least({place}, {NUM_BINS - 1})) AS bin, count(*) FROM ("
            f"SELECT source, greatest(1e-9, least(({score})::DOUBLE, 1 - 1e-9)) AS score FROM {scan(captions)} "
            f"WHERE isfinite({score}) AND list_contains({text_list(sources)}, source)) "
            "GROUP BY source, bin"
        ).fetchall()
    for source, at, number in cells:
        counts[source][at] = number
    return counts


def _curves(rows: Mapping[str, Sequence[Mapping[str, Any]]], counts: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """Kept texts (bins, 1) and those of them that fit (bins, draws), at the lower edge of every bin as threshold."""
    texts, good = np.zeros(NUM_BINS), np.zeros((NUM_BINS, DRAWS))
    for source, number in counts.items():
        texts += number
        good += number[:, None] * _fits(rows[source], source, number)
    return np.cumsum(texts[::-1])[::-1, None], np.cumsum(good[::-1], axis=0)[::-1]


def _shares(kept: Floats, kept_good: Floats) -> tuple[Floats, Floats]:
    """Noise among the kept texts, and recall, by every drawn curve; the first row is that of all texts.

    Noise is NaN where no text is left.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        noise = np.where(kept > 0, 1 - kept_good / kept, np.nan)
    return noise, kept_good / np.maximum(kept_good[0], 1e-12)


def _fits(rows: Sequence[Mapping[str, Any]], source: str, number: Floats) -> Floats:
    """P(a text of `source` fits | bin) by every drawn curve; `number` is how many texts lie in each bin."""
    mine = [row for row in rows if row["source"] == source]
    enough = min(_answers(mine)) >= LEAST_ANSWERS
    probability = _drawn_curves(mine if enough else rows)
    if not enough and all(row["source"] == HUMAN for row in rows):
        return _with_share(probability, number, _answers(rows)[0] / len(rows))
    return probability


def class_share(probability: Floats, number: Floats, share: float) -> Floats:
    """The share of texts that fit, for each column of `probability` (bins, curves) fitted where `share` did.

    It is the share that explains the scores of all texts best, found by expectation maximisation (Saerens et al.
    2002); `number` is how many texts lie in each bin.
    """
    likelihood = probability / (1 - probability) * (1 - share) / share
    weight, found = number / max(number.sum(), 1), np.full(probability.shape[1], share)
    for _ in range(500):
        was, fits = found, found * likelihood / (found * likelihood + 1 - found)
        found = np.clip(weight @ fits, 1e-6, 1 - 1e-6)
        if np.abs(found - was).max() < 1e-5:
            break
    return found


def _with_share(probability: Floats, number: Floats, share: float) -> Floats:
    """P(fits | bin) for texts of which another share fits than the `share` of the labels; see `class_share`."""
    some = number > 0
    likelihood = probability[some] / (1 - probability[some]) * (1 - share) / share
    found = class_share(probability[some], number[some], share)
    shifted = np.zeros_like(probability)
    shifted[some] = found * likelihood / (found * likelihood + 1 - found)
    return shifted


def _sigmoid(log_odds: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))
    return found


def _features(scores: Floats) -> Floats:
    clipped = np.clip(scores, 1e-4, 1 - 1e-4)
    return np.stack([np.log(clipped), -np.log1p(-clipped), np.ones_like(clipped)], axis=1)


def _drawn_curves(rows: Sequence[Mapping[str, Any]]) -> Floats:
    """P(fits | bin) by DRAWS curves of the posterior, taken as normal around its mode (Laplace approximation)."""
    weights, covariance = fit_curve(rows)
    return curve_at_bins(np.random.default_rng(0).multivariate_normal(weights, covariance, size=DRAWS))


def curve_at_bins(weights: Floats) -> Floats:
    """P(fits | bin), of shape (bins, curves), by curves with weights of shape (curves, 3)."""
    return _sigmoid(_features(bin_centres()) @ weights.T)


def bin_centres() -> Floats:
    """The score in the middle of each bin."""
    return _sigmoid(_EDGES + _STEP / 2)


def fit_curve(rows: Sequence[Mapping[str, Any]]) -> tuple[Floats, Floats]:
    """Mode (3,) and covariance (3, 3) of the weights of the curve, by logistic regression with Newton's method."""
    scores = np.array([row["itm_score"] for row in rows], dtype=np.float64)
    answers = np.array([row["answer"] == "yes" for row in rows], dtype=np.float64)
    design, weights, curvature = _features(scores), np.zeros(3), _RIDGE
    for _ in range(50):
        probability = _sigmoid(design @ weights)
        slope = design.T @ (answers - probability) - _RIDGE @ weights
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design + _RIDGE
        step = np.linalg.solve(curvature, slope)
        weights = weights + step
        if np.abs(step).max() < 1e-8:
            break
    return weights, np.linalg.inv(curvature)
