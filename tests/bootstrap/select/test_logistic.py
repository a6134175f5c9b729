"""The fit of the learned rule, by reference maths: least loss within bounds, areas, folds."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest

from blip_bootstrap.query.macros import MACROS
from blip_bootstrap.select import logistic

FREE = -np.inf


def prior(size: int, least: float = 0.0) -> logistic.Prior:
    return logistic.Prior(np.zeros(size), np.ones(size), np.full(size, least))


def test_the_fit_is_the_least_loss_within_the_bounds() -> None:
    """The gradient is 0 where a weight is free, and pushes outwards where it is held at 0."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        design = rng.normal(size=(60, 5))
        design[:, 1] = design[:, 0] + 0.1 * design[:, 1]
        answers = (design[:, 0] - design[:, 2] + rng.normal(size=60) > 0).astype(float)
        weights = logistic.fit(design, answers, prior(5), 0.5)
        whole = np.append(design, np.ones((60, 1)), axis=1)
        slope = whole.T @ (logistic.sigmoid(whole @ weights) - answers) + np.append(np.full(5, 0.5), 0.01) * weights
        assert min(weights[:5]) >= 0
        assert weights[2] == 0, "its true weight is below 0"
        assert np.abs(slope[weights != 0]).max() < 1e-4
        assert min(slope[:5][weights[:5] == 0]) > 0


def test_a_separation_leaves_finite_weights() -> None:
    design = np.array([[-1.0]] * 10 + [[1.0]] * 10)
    weights = logistic.fit(design, np.repeat([0.0, 1.0], 10), prior(1), 1.0)
    assert 0.5 < weights[0] < 5


def test_auc_counts_ties_half() -> None:
    assert logistic.auc(np.array([1.0, 2, 2, 3]), np.array([0.0, 0, 1, 1])) == 0.875
    assert np.isnan(logistic.auc(np.ones(2), np.ones(2)))


@pytest.mark.parametrize(("area", "num_yes", "num_no"), [(0.9, 50, 50), (1.0, 7, 43), (0.62, 12, 200), (0.0, 5, 5)])
def test_the_interval_of_an_area_is_that_of_the_audit(area: float, num_yes: int, num_no: int) -> None:
    answers = np.repeat([1.0, 0.0], [num_yes, num_no])
    with duckdb.connect() as connection:
        connection.execute(MACROS)
        ((half,),) = connection.execute(f"SELECT auc_half({area}, {num_yes}, {num_no})").fetchall()
    low, high = logistic.auc_interval(area, answers)
    assert (low, high) == pytest.approx((max(0, area - half), min(1, area + half)))
    assert low < high
    assert (low, high) != (1, 1), "1.0 of seven is not certain"


def test_texts_of_an_image_share_a_fold_and_answers_are_spread() -> None:
    keys = [f"{at // 2}" for at in range(100)]
    answers = np.array([float(at // 2 % 5 == 0) for at in range(100)])
    folds = logistic.folds_of(keys, answers)
    assert all(folds[at] == folds[at + 1] for at in range(0, 100, 2))
    assert [answers[folds == fold].sum() for fold in range(5)] == [4.0] * 5
    assert (folds == logistic.folds_of(keys, answers)).all()


@pytest.mark.parametrize(("told", "low", "high"), [(True, 0.97, 1.0), (False, 0.35, 0.6)])
def test_cross_validated_auc_is_near_1_where_scores_tell_and_near_half_where_not(
    told: bool, low: float, high: float
) -> None:
    rng = np.random.default_rng(0)
    answers = (rng.random(200) < 0.5).astype(float)
    design = rng.normal(size=(200, 8))
    if told:
        design[:, 0] += 6 * answers
    found = logistic.out_of_fold(design, answers, [str(at) for at in range(200)], prior(8, FREE))
    assert low <= logistic.auc(found, answers) <= high
