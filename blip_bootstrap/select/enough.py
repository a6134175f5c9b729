"""Whether more answers would change the learned rule much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blip_bootstrap.select import logistic
from blip_bootstrap.select.features import NAMES, Floats, Moments, feature_of, standardised
from blip_bootstrap.select.learn import Learned, answers_of, labels_for, learn, prior_of

LEAST_GAIN = 0.01
"""An AUC that rose by less, from half of the answers to all, is about as high as it gets."""

FEW_FLIPS = 0.05

SURE = 0.1
"""Half of the interval of the share that fits of the texts taken for right, from which the cut is not known well: it is
wide where few were answered yes, however well the two kinds are told apart."""

_DRAWS = 200


def enough(rows: Sequence[dict[str, Any]]) -> str:
    """A sentence about each source in answered rows of `LABELS`: whether more answers would change the rule much.

    They would rank better where the cross-validated AUC rose from half of the answers to all, and its interval leaves
    something to gain. They would place the cut more surely where many verdicts (fits or not) differ between two rules
    that the answers allow alike, or the share of right ones among those taken for right is known badly.
    """
    answered = [row for row in rows if row["answer"] in ("yes", "no")]
    return " ".join(_told(answered, source) for source in ("synthetic", "web") if _of(answered, source))


def _of(rows: Sequence[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["source"] == source]


def _told(rows: Sequence[dict[str, Any]], source: str) -> str:
    mine = labels_for(_of(rows, source), source)
    if not mine:
        return f"{source}: too few answers for a learned rule, which needs 5 times yes and 5 times no."
    half = labels_for(_half(mine), source)
    if not half:
        return f"{source}: {len(mine)} answers begin a rule; answer more."
    moments = _moments(mine)
    learned, before = learn(mine, source, moments), _auc(learn(half, source, moments))
    area, flips, (kept, is_sure) = _auc(learned), _flips(mine, learned, source), _told_kept(learned)
    low, high = logistic.auc_interval(area, learned.answers)
    told = f"AUC {area:.2f} ({low:.2f} to {high:.2f}) with {len(mine)} answers, {before:.2f} with {len(half)}"
    told += f"; {kept}; {flips:.0%} of verdicts still open"
    if min(area - before, high - area) >= LEAST_GAIN:
        return f"{source}: more answers would help ({told})."
    if flips < FEW_FLIPS and is_sure:
        return f"{source}: more answers would not change much ({told})."
    return f"{source}: more answers would hardly rank the texts better, but place the cut more surely ({told})."


def _told_kept(learned: Learned) -> tuple[str, bool]:
    """How many of the answered texts that are taken for right by a rule that did not see them are so; is that sure?"""
    kept = learned.answers[learned.log_odds > 0]
    if not len(kept):
        return "none is taken for right", False
    share = float(kept.mean())
    low, high = logistic.wilson(share, len(kept))
    return f"{share:.0%} ({low:.0%} to {high:.0%}) of {len(kept)} taken for right are", (high - low) / 2 <= SURE


def _half(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Half of the images: those of two of four folds, so that yes and no are shared evenly."""
    folds = logistic.folds_of([str(row["key"]) for row in rows], answers_of(rows), 4)
    return [row for row, fold in zip(rows, folds, strict=True) if fold < 2]


def _moments(rows: Sequence[Mapping[str, Any]]) -> dict[str, Moments]:
    """The moments of the labelled texts; those of all texts are not at hand where labels are answered."""
    found = {}
    for name in NAMES:
        values: Floats = np.array([feature_of(row, name) for row in rows])
        some = values[~np.isnan(values)]
        if len(some):
            found[name] = Moments(float(some.mean()), float(some.std()), len(some) / len(rows))
    return found


def _auc(learned: Learned) -> float:
    return logistic.auc(learned.log_odds, learned.answers)


def _flips(rows: Sequence[Mapping[str, Any]], learned: Learned, source: str) -> float:
    """The share of verdicts that differ between two draws of the weights' posterior, on average."""
    design, prior = standardised(rows, learned.moments), prior_of(source, list(learned.moments))
    spread = logistic.covariance(design, learned.weights, prior, learned.penalty)
    drawn = np.random.default_rng(0).multivariate_normal(learned.weights, spread, size=_DRAWS)
    drawn[:, :-1] = np.maximum(drawn[:, :-1], prior.least)
    fits = (design @ drawn[:, :-1].T + drawn[:, -1] > 0).mean(axis=1)
    return float((2 * fits * (1 - fits)).mean())
