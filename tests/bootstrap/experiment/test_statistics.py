"""Student's t and paired intervals against printed tables and plain reference maths."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from blip_bootstrap.experiment.statistics import spread_of, t_cdf, t_quantile

# Two-sided 5 %: the column of .975 in any printed table of Student's t.
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 8: 2.306, 10: 2.228, 20: 2.086, 30: 2.042, 120: 1.980}


@pytest.mark.parametrize(("freedom", "value"), TABLE.items())
def test_quantiles_are_those_of_the_printed_table(freedom: int, value: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("t", [-3.0, -0.4, 0.0, 0.7, 2.5])
def test_the_distribution_is_the_integral_of_its_density(freedom: int, t: float) -> None:
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2

    def density(x: float) -> float:
        return math.exp(log_scale - (freedom + 1) / 2 * math.log1p(x * x / freedom))

    steps = 4000  # Simpson's rule from 0 to t
    width = t / steps
    inner = sum((4 if at % 2 else 2) * density(at * width) for at in range(1, steps))
    assert t_cdf(t, freedom) == pytest.approx(0.5 + width / 3 * (density(0) + inner + density(t)), abs=1e-9)


def test_an_interval_by_hand() -> None:
    found = spread_of([1.0, 2.0, 4.0])
    deviation = math.sqrt(((1 - 7 / 3) ** 2 + (2 - 7 / 3) ** 2 + (4 - 7 / 3) ** 2) / 2)
    assert found.num == 3
    assert found.mean == pytest.approx(7 / 3)
    assert found.deviation == pytest.approx(deviation)
    assert found.high == pytest.approx(7 / 3 + 4.302653 * deviation / math.sqrt(3), abs=1e-5)
    assert found.low == pytest.approx(7 / 3 - 4.302653 * deviation / math.sqrt(3), abs=1e-5)
    assert not found.is_beyond_zero


def test_nineteen_of_twenty_intervals_hold_the_mean() -> None:
    rng = random.Random(0)
    held = [spread_of([rng.gauss(3.0, 2.0) for _ in range(4)]) for _ in range(4000)]
    share = statistics.fmean(one.low < 3.0 < one.high for one in held if one.low is not None and one.high is not None)
    assert share == pytest.approx(0.95, abs=0.015)


def test_one_seed_has_no_interval_and_equal_seeds_have_an_empty_one() -> None:
    alone = spread_of([0.4])
    assert (alone.deviation, alone.low, alone.high, alone.is_beyond_zero) == (None, None, None, False)
    equal = spread_of([0.4, 0.4])
    assert equal.deviation == pytest.approx(0)
    assert equal.low == pytest.approx(0.4)
    assert equal.high == pytest.approx(0.4)
    assert equal.is_beyond_zero


@pytest.mark.parametrize("num", [2, 3, 5, 11])
def test_spreads_and_intervals_are_those_of_scipy(num: int) -> None:
    stats, numpy = pytest.importorskip("scipy.stats"), pytest.importorskip("numpy")
    rng = random.Random(num)
    values = [rng.gauss(0.3, 0.02) for _ in range(num)]
    low, high = stats.t.interval(0.95, num - 1, loc=numpy.mean(values), scale=stats.sem(values))
    found = spread_of(values)
    assert (found.mean, found.deviation) == pytest.approx((numpy.mean(values), numpy.std(values, ddof=1)))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    rivals = [one - rng.gauss(0.01, 0.01) for one in values]
    paired = spread_of([a - b for a, b in zip(values, rivals, strict=True)])
    test = stats.ttest_rel(values, rivals)
    assert (paired.low, paired.high) == pytest.approx(tuple(test.confidence_interval(0.95)), rel=1e-9)
    assert paired.is_beyond_zero == (test.pvalue < 0.05)
