"""The plan of an epoch: which part of which row group each lane reads, and in which window, by counts alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blip_training.feed.counts import Counts
from blip_training.feed.shards import rng_of

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """Row groups that a lane holds at a time, whose samples are shuffled among each other.

    Of row group `groups[i]`, which has `counts[i]` samples in the epoch, those from `lows[i]` to before `highs[i]` are
    the lane's. `first` is the number of the window's first sample in the lane's epoch, and `next_first` that of the
    next window's.
    """

    epoch: int
    lane: int
    number: int
    first: int
    next_first: int
    groups: Numbers
    counts: Numbers
    lows: Numbers
    highs: Numbers


@dataclass(frozen=True)
class EpochPlan:
    """The pieces of row groups in the order in which the lanes read them, lane after lane, an array for each number.

    `bounds` has the first piece of each lane, and the number of pieces. Of each piece: its row `group` and how many
    samples that has in the epoch (`count`), from which of them to before which it goes (`low`, `high`), the number of
    its first sample in the lane (`first`), and of its window there (`window`).
    """

    epoch: int
    bounds: Numbers
    group: Numbers
    count: Numbers
    low: Numbers
    high: Numbers
    first: Numbers
    window: Numbers

    def window_at(self, lane: int, index: int) -> Window | None:
        """The window of sample number `index` of a lane; None past the lane's last."""
        start, stop = (int(one) for one in self.bounds[lane : lane + 2])
        piece = start + int(np.searchsorted(self.first[start:stop], index, side="right")) - 1
        if start == stop or index >= self.first[stop - 1] + self.high[stop - 1] - self.low[stop - 1]:
            return None
        number, windows = int(self.window[piece]), self.window[start:stop]
        mine = slice(
            start + int(np.searchsorted(windows, number, side="left")),
            start + int(np.searchsorted(windows, number, side="right")),
        )
        first = int(self.first[mine][0])
        return Window(
            self.epoch, lane, number, first, first + int((self.high - self.low)[mine].sum()),
            self.group[mine], self.count[mine], self.low[mine], self.high[mine],
        )  # fmt: skip


def plan_epoch(counts: Counts, seed: int, epoch: int, lane_sizes: Numbers, window_bytes: int) -> EpochPlan:
    """Plan an epoch by (seed, epoch, counts) alone, for lanes of so many samples each.

    Row groups are shuffled so that each list has its share of every stretch of the epoch. Laid end to end they are cut
    into the lanes, each of which reads its own in the order of that shuffle: so at any time the lanes together have the
    lists in proportion. A lane's window takes row groups until the kept pictures are `window_bytes`.
    """
    rng = rng_of("plan", seed, epoch)
    counted = counts.of_epoch(rng)
    times, num_lanes = _times(counted, counts.source, rng), len(lane_sizes)
    in_time = np.argsort(times, kind="stable")
    dealt = in_time[np.argsort(np.arange(len(in_time)) % num_lanes, kind="stable")]
    starts = np.concatenate([[0], np.cumsum(counted[dealt])])
    cuts = np.cumsum(lane_sizes)
    edges = np.unique(np.concatenate([[0], starts, cuts]))
    left = edges[:-1]
    at = np.searchsorted(starts, left, side="right") - 1
    group, lane, low = dealt[at], np.searchsorted(cuts, left, side="right"), left - starts[at]
    order = np.lexsort((times[group], lane))
    group, lane, low, size = group[order], lane[order], low[order], np.diff(edges)[order]
    bounds = np.searchsorted(lane, np.arange(num_lanes + 1))
    windows = _before(counts.kept_bytes[group], bounds) // max(1, window_bytes)
    return EpochPlan(epoch, bounds, group, counted[group], low, low + size, first=_before(size, bounds), window=windows)


def _times(counted: Numbers, source: Numbers, rng: np.random.Generator) -> NDArray[np.float64]:
    """When each row group has its turn, 0..1: those of a list are shuffled, and spread evenly by their samples."""
    shuffled = rng.permutation(len(counted))
    by_source = shuffled[np.argsort(source[shuffled], kind="stable")]
    sizes = counted[by_source]
    bounds = np.searchsorted(source[by_source], np.arange(1 + (int(source.max()) if len(source) else 0) + 1))
    before = _before(sizes, bounds) + rng.random(len(sizes)) * sizes
    totals = np.repeat(np.add.reduceat(np.append(sizes, 0), bounds[:-1]), np.diff(bounds)) if len(sizes) else sizes
    times = np.empty(len(counted))
    times[by_source] = before / np.maximum(totals, 1)
    return times


def _before(values: Numbers, bounds: Numbers) -> Numbers:
    """The sum of the values before each one, from the last bound on."""
    sums = np.cumsum(values) - values
    firsts = bounds[:-1]
    before: Numbers = sums - np.repeat(np.append(sums, 0)[firsts], np.diff(bounds))
    return before
