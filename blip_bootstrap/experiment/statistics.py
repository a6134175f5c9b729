"""Means, spreads and paired differences over seeds, with 95 % intervals by Student's t."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """A figure over seeds: how many, the mean, the standard deviation (n - 1), and the 95 % interval of the mean.

    With one seed there is no deviation and no interval: None.
    """

    num: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None

    @property
    def is_beyond_zero(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def spread_of(values: Sequence[float]) -> Spread:
    """The spread of some values, of which there is one at least."""
    num, mean = len(values), statistics.fmean(values)
    if num < 2:
        return Spread(num, mean, None, None, None)
    deviation = statistics.stdev(values)
    half = t_quantile(0.5 + LEVEL / 2, num - 1) * deviation / math.sqrt(num)
    return Spread(num, mean, deviation, mean - half, mean + half)


def t_cdf(t: float, freedom: int) -> float:
    """The probability that Student's t with so many degrees of freedom is at most `t`.

    The finite sums for whole degrees of freedom: Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan2(t, math.sqrt(freedom))
    cos2, term, total = math.cos(angle) ** 2, 1.0, 1.0
    for one in range(2, freedom - 1, 2) if freedom % 2 == 0 else range(3, freedom - 1, 2):
        term *= (one - 1) / one * cos2
        total += term
    if freedom % 2 == 0:
        within = math.sin(angle) * total
    else:
        more = math.sin(angle) * math.cos(angle) * total if freedom > 1 else 0.0
        within = 2 / math.pi * (angle + more)
    return 0.5 + within / 2


def t_quantile(probability: float, freedom: int) -> float:
    """Where `t_cdf` reaches a probability over one half, by halving, to twelve digits."""
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2
