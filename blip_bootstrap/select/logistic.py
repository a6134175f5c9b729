"""A logistic rule that few answers can carry: its weights are drawn to a prior, and a score never counts against."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Fitter = Callable[[Floats, Floats, NDArray[np.bool_]], Floats]
"""Gives weights for a design, its answers, and which of all texts they are."""

PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Strengths of the prior among which cross-validation chooses."""

NUM_FOLDS = 5

_STEPS = 100

_LEAST_STEP = 1e-6

Z = 1.96
"""Standard deviations of a 95 % interval."""

_FREE = 0.01
"""The penalty of the intercept: all answers may be yes, and the weights must stay finite."""


@dataclass(frozen=True)
class Prior:
    """What the weights are drawn to, how strongly, and the least that each may be; all (features,)."""

    mean: Floats
    strength: Floats
    least: Floats


def fit(design: Floats, answers: Floats, prior: Prior, penalty: float) -> Floats:
    """Weights (features + 1,), the intercept last, of the logistic rule with the least penalised loss.

    `design` is (texts, features), `answers` 0 or 1 (texts,). The loss is the sum of -ln P(answer), and of
    penalty * strength / 2 * (weight - mean)**2.
    """
    whole, mean, strength = _with_intercept(design, prior, penalty)
    least = np.append(prior.least, -math.inf)

    def loss(weights: Floats) -> float:
        log_odds = whole @ weights
        return float(np.logaddexp(0, log_odds).sum() - answers @ log_odds + strength @ (weights - mean) ** 2 / 2)

    # Newton's method on the weights that are not held at their bound, each step cut back to the bounds. Not SciPy's
    # L-BFGS-B: where two processes share two cores, the threads of its BLAS take 50 times as long (0.1 s for 2 ms).
    weights: Floats = np.maximum(mean, least)
    for _ in range(_STEPS):
        probability = sigmoid(whole @ weights)
        slope = whole.T @ (probability - answers) + strength * (weights - mean)
        free = (weights > least) | (slope < 0)
        some = whole[:, free]
        curvature = (some * (probability * (1 - probability))[:, None]).T @ some + np.diag(strength[free])
        step = np.zeros_like(weights)
        step[free] = np.linalg.solve(curvature, slope[free])
        now, size = loss(weights), 1.0
        while size > _LEAST_STEP and loss(np.maximum(weights - size * step, least)) > now:
            size /= 2
        moved = np.maximum(weights - size * step, least)
        if np.abs(moved - weights).max() < 1e-8:
            break
        weights = moved
    return weights


def covariance(design: Floats, weights: Floats, prior: Prior, penalty: float) -> Floats:
    """Covariance (features + 1, features + 1) of the weights' posterior, taken as normal around `weights`."""
    whole, _, strength = _with_intercept(design, prior, penalty)
    probability = sigmoid(whole @ weights)
    curvature = (whole * (probability * (1 - probability))[:, None]).T @ whole + np.diag(strength)
    return np.asarray(np.linalg.inv(curvature), dtype=np.float64)


def _with_intercept(design: Floats, prior: Prior, penalty: float) -> tuple[Floats, Floats, Floats]:
    whole = np.concatenate([design, np.ones((len(design), 1))], axis=1)
    return whole, np.append(prior.mean, 0.0), np.append(penalty * prior.strength, _FREE)


def log_odds_of(design: Floats, weights: Floats) -> Floats:
    """ln of P(fits) / P(does not fit) of each text."""
    found: Floats = design @ weights[:-1] + weights[-1]
    return found


def sigmoid(log_odds: Floats) -> Floats:
    """The probability of log-odds."""
    found: Floats = 1 / (1 + np.exp(-np.clip(log_odds, -500, 500)))
    return found


def choose_penalty(design: Floats, answers: Floats, keys: Sequence[str], prior: Prior) -> float:
    """The penalty with the least cross-validated loss; of equal ones the strongest."""
    if min(answers.sum(), len(answers) - answers.sum()) < 2:
        return PENALTIES[-1]
    folds = folds_of(keys, answers)
    losses = {}
    for penalty in reversed(PENALTIES):
        log_odds = _predicted(design, answers, folds, _with_penalty(prior, penalty))
        losses[penalty] = round(float(np.mean(np.logaddexp(0, log_odds) - answers * log_odds)), 9)
    return min(losses, key=lambda penalty: losses[penalty])


def _with_penalty(prior: Prior, penalty: float) -> Fitter:
    return lambda design, answers, _: fit(design, answers, prior, penalty)


def out_of_fold(design: Floats, answers: Floats, keys: Sequence[str], prior: Prior) -> Floats:
    """The log-odds of each text by a rule that saw no text of its image, (texts,).

    Nested: for each fold the penalty is chosen by cross-validation within the others.
    """

    def fitted(some: Floats, their: Floats, at: NDArray[np.bool_]) -> Floats:
        named = [key for key, is_in in zip(keys, at, strict=True) if is_in]
        return fit(some, their, prior, choose_penalty(some, their, named, prior))

    return _predicted(design, answers, folds_of(keys, answers), fitted)


def _predicted(design: Floats, answers: Floats, folds: NDArray[np.int64], fitted: Fitter) -> Floats:
    found = np.zeros(len(answers))
    for fold in np.unique(folds):
        rest = folds != fold
        found[~rest] = log_odds_of(design[~rest], fitted(design[rest], answers[rest], rest))
    return found


def folds_of(keys: Sequence[str], answers: Floats, num_folds: int = NUM_FOLDS) -> NDArray[np.int64]:
    """The fold of each text, from 0: by md5 of its image, so that texts of an image are in one.

    Images whose texts are mostly answered yes, and the others, are spread evenly over the folds.
    """
    votes: dict[str, float] = {}
    for key, answer in zip(keys, answers, strict=True):
        votes[key] = votes.get(key, 0.0) + answer - 0.5
    drawn = sorted(votes, key=lambda key: (votes[key] > 0, hashlib.md5(key.encode(), usedforsecurity=False).digest()))
    fold = {key: at % num_folds for at, key in enumerate(drawn)}
    return np.array([fold[key] for key in keys], dtype=np.int64)


def auc(scores: Floats, answers: Floats) -> float:
    """The chance that a text answered yes is scored above one answered no, ties half; NaN where one is missing."""
    order = np.argsort(scores, kind="stable")
    _, place, number = np.unique(scores[order], return_inverse=True, return_counts=True)
    ranks = (np.cumsum(number) - (number - 1) / 2)[place]
    yes = answers[order] > 0.5
    num_yes, num_no = yes.sum(), (~yes).sum()
    if not num_yes or not num_no:
        return math.nan
    return float((ranks[yes].sum() - num_yes * (num_yes + 1) / 2) / (num_yes * num_no))


def auc_interval(value: float, answers: Floats) -> tuple[float, float]:
    """The 95 % interval of an AUC (Hanley and McNeil 1982), within 0..1, as the audit `filter_quality` has it.

    Its width is that at an area which one more text of each kind makes less sure: 1.0 of few is not taken for certain.
    """
    num_yes, num_no = answers.sum(), len(answers) - answers.sum()
    held = (value * min(num_yes, num_no) + 1) / (min(num_yes, num_no) + 2)
    one, two = held / (2 - held), 2 * held**2 / (1 + held)
    variance = (held * (1 - held) + (num_yes - 1) * (one - held**2) + (num_no - 1) * (two - held**2)) / num_yes / num_no
    half = Z * math.sqrt(variance)
    return float(max(0.0, value - half)), float(min(1.0, value + half))


def wilson(share: float, number: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share seen in `number` answers, which may be a fraction."""
    centre = (share + Z * Z / (2 * number)) / (1 + Z * Z / number)
    half = Z * math.sqrt(share * (1 - share) / number + Z * Z / (4 * number * number)) / (1 + Z * Z / number)
    low, high = 0.0 if share == 0 else max(0.0, centre - half), 1.0 if share == 1 else min(1.0, centre + half)
    return low, high  # without the float noise at the ends, as 1.4e-17 for 0
