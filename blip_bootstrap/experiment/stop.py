"""The stop rule: a series of rounds ends where one gains no more than the seeds differ; the one before it counts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

from blip_bootstrap.experiment.file import Stop
from blip_bootstrap.experiment.record import Record
from blip_bootstrap.experiment.statistics import spread_of


@dataclass(frozen=True)
class Stopped:
    """Where the rule stops: the arm that did not gain enough (None: each did), the arm that counts, and why."""

    at: str | None
    answer: str
    told: str


def arms_in_turn(stop: Stop | None, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The arms in turns, after each of which the rule looks back: one turn where there is no rule, or it only tells."""
    if stop is None or stop.go_on:
        return [tuple(names)]
    in_series = [name for name in stop.arms if name in names]
    first = tuple(name for name in names if name not in in_series[1:])
    return [first, *((name,) for name in in_series[1:])]


def look_back(
    stop: Stop, records: Sequence[Record], run: Collection[str], is_last: bool, to_come: Collection[str] = ()
) -> Stopped | None:
    """Where the rule stops by the arms that are there; None where it does not yet, and more are to come.

    The gain of a round is the mean over the seeds that have both rounds. It counts where it is more than the standard
    deviation of the seeds' gains; of one seed, where it is more than nothing. `run` are the arms that were to be run so
    far: the series ends before one of them that failed in all seeds, or of which no seed has the round before, since
    nothing is known of its gain.
    """
    values: dict[str, dict[int, float]] = {}
    for one in records:
        if stop.metric in one["figures"]:
            values.setdefault(one["arm"], {})[one["seed"]] = one["figures"][stop.metric]
    so_far = takewhile(lambda name: name not in to_come, stop.arms)
    series = [name for name in so_far if name in values or name in run]
    if not any(name in values for name in series):
        return None  # nothing has the figure, which is told where figures are
    for before, now in pairwise(series):
        if not (both := values.get(before, {}).keys() & values.get(now, {}).keys()):
            lacking = f"no seed has {stop.metric} ({stop.split}) of {before} and of it"
            return Stopped(now, before, f"ends at {now}: {lacking}" + f"; {before} counts" * (before in values))
        gained, told = _gain([values[now][seed] - values[before][seed] for seed in sorted(both)])
        if not gained:
            return Stopped(now, before, f"stops at {now}: {stop.metric} ({stop.split}) {told}; {before} counts")
    if not is_last or len(series) < 2:
        return None
    return Stopped(None, series[-1], f"every round up to {series[-1]} gained on {stop.metric} ({stop.split})")


def _gain(by_seed: Sequence[float]) -> tuple[bool, str]:
    gains = spread_of(by_seed)
    spread = gains.deviation or 0.0
    return gains.mean > spread, f"gains {gains.mean:+.4g}, the seeds differ by {spread:.4g}"
