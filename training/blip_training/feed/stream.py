"""Endless shuffled samples of one set: which sample stands at which position, with its bytes and text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from blip_bootstrap.errors import InputError
from blip_training.feed.counts import Counts
from blip_training.feed.epoch_plan import EpochPlan, Window, plan_epoch
from blip_training.feed.lanes import Lanes
from blip_training.feed.row_groups import Sample
from blip_training.feed.shards import Shard, rng_of
from blip_training.feed.windows import HeldGroups

WINDOW_BYTES = 512 << 20
"""Bytes of the encoded pictures of all lanes' windows. While the next ones are read, there are two of each lane."""

Entered = tuple[Window, NDArray[np.int64], NDArray[np.int64]]
"""A window with its samples in their order: of each its row group and the number of its text there."""


class Stream:
    """Endless shuffled samples of one set: the sample at a position is fixed, on every worker and after every restart.

    Each epoch has every sample once, or as often as its weight says. It is planned from `counts` (`plan_epoch`), and
    positions are dealt out to `lanes`; a worker that asks for positions of some lanes reads the row groups of these
    lanes alone. Of each lane a window is in memory, in which its samples are shuffled, and the next one is read
    meanwhile. A position is found by arithmetic, so that a resumed training does not read again what it has passed.
    """

    def __init__(
        self, shards: Sequence[Shard], counts: Counts, seed: int, lanes: Lanes | None = None,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:  # fmt: skip
        self.shards, self.counts, self.seed = shards, counts, seed
        self.lanes = lanes or Lanes()
        self.num_samples = counts.num_samples
        self.held = HeldGroups(shards, counts)
        self._window_bytes = window_bytes // self.lanes.num_lanes
        self._plans: dict[int, EpochPlan] = {}
        self._entered: dict[int, Entered] = {}
        self._end: int | None = None

    def end_at(self, position: int) -> None:
        """Say that nobody will ask for this position or one after it, so that nothing is read for them."""
        self._end = position

    def samples(self, start: int, count: int) -> Iterator[Sample]:
        """The samples at positions start .. start + count - 1."""
        return (self.at(position) for position in range(start, start + count))

    def at(self, position: int) -> Sample:
        """The sample at a position."""
        epoch = position // self.num_samples
        lane = self.lanes.lane(position)
        index = self.lanes.passed(lane, position) - self.lanes.passed(lane, epoch * self.num_samples)
        window, groups, texts = self._at(epoch, lane, index)
        place = index - window.first
        group, text = self.held.get(int(groups[place])), int(texts[place])
        return Sample(group, int(group.rows[text]), group.texts[text], epoch)

    def _at(self, epoch: int, lane: int, index: int) -> Entered:
        """The window of a lane with a sample, entered if the lane is in another one."""
        entered = self._entered.get(lane)
        if entered is None or entered[0].epoch != epoch or not entered[0].first <= index < entered[0].next_first:
            window = self._plan(epoch).window_at(lane, index)
            assert window is not None, f"sample {index} of lane {lane} is past the lane's end"
            entered = self._entered[lane] = self._enter(window)
        return entered

    def _plan(self, epoch: int) -> EpochPlan:
        """The plan of an epoch; those of the last two that were asked for are kept."""
        if epoch not in self._plans:
            sizes = self.lanes.sizes(epoch * self.num_samples, (epoch + 1) * self.num_samples)
            self._plans = dict([*self._plans.items()][-1:])
            self._plans[epoch] = plan_epoch(self.counts, self.seed, epoch, sizes, self._window_bytes)
        return self._plans[epoch]

    def _enter(self, window: Window) -> Entered:
        """Ask for a window and the next, then draw and shuffle the samples of this one."""
        later = self._next(window)
        self.held.ask(window.lane, window.groups.tolist(), later.groups.tolist() if later else ())
        texts = [self._texts(window, piece) for piece in range(len(window.groups))]
        groups = np.repeat(window.groups, window.highs - window.lows)
        rng = rng_of("window", self.seed, window.epoch, window.lane, window.number)
        order = rng.permutation(len(groups))
        return window, groups[order], np.concatenate(texts)[order]

    def _texts(self, window: Window, piece: int) -> NDArray[np.int64]:
        """The texts of one of a window's row groups that are its samples."""
        number, count = int(window.groups[piece]), int(window.counts[piece])
        group = self.held.get(number)
        texts = group.drawn(count, self.seed, window.epoch, number)
        if len(texts) != count:
            raise InputError(f"{group.shard.pairs or group.shard.images}: changed since the training began; run again")
        return texts[window.lows[piece] : window.highs[piece]]

    def _next(self, window: Window) -> Window | None:
        """The lane's next window, in this epoch or the next; None where nobody will ask for it."""
        start, lane = window.epoch * self.num_samples, window.lane
        index = self.lanes.passed(lane, start) + window.next_first
        if self._end is not None and self.lanes.position_of(lane, index) >= self._end:
            return None
        if found := self._plan(window.epoch).window_at(lane, window.next_first):
            return found
        return self._plan(window.epoch + 1).window_at(lane, 0)
