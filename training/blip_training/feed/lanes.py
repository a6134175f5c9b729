"""Lanes: the parts of a set's epochs that are read side by side, whatever the number of workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_LANES = 64

GROUPS_PER_LANE = 16
"""The least number of row groups of a lane: one that a lane's end cuts is read by two lanes, 1 in 16 at most."""


def num_lanes(num_groups: int, batch_size: int) -> int:
    """How many lanes a set has: a power of two, which divides the batch; it depends on no number of workers."""
    lanes = 1
    while 2 * lanes <= min(MAX_LANES, num_groups // GROUPS_PER_LANE) and batch_size % (2 * lanes) == 0:
        lanes *= 2
    return lanes


@dataclass(frozen=True)
class Lanes:
    """Which lane of a set the sample at a position comes from, and which of the lane's samples it is.

    A batch's slots are cut into `num_parts` equal parts, each of one lane; positions go round the parts, so that a
    part's n-th position is its n-th sample. `num_lanes` divides `num_parts`: a small set has fewer lanes than there are
    parts, and a lane then serves several that are side by side. With `backwards` the parts are counted from the last: a
    step's samples of two sets, one of which counts so, are equally many in each part.
    """

    num_lanes: int = 1
    num_parts: int = 1
    backwards: bool = False

    @property
    def parts_of_lane(self) -> int:
        """The parts of a batch that one lane serves."""
        return self.num_parts // self.num_lanes

    def parts(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The part of the batch of each position."""
        parts = positions % self.num_parts
        return self.num_parts - 1 - parts if self.backwards else parts

    def lane(self, position: int) -> int:
        """The lane of a position."""
        return position % self.num_parts // self.parts_of_lane

    def passed(self, lane: int, position: int) -> int:
        """How many of a lane's samples come before a position, from position 0 on."""
        rounds, rest = divmod(position, self.num_parts)
        return rounds * self.parts_of_lane + min(max(rest - lane * self.parts_of_lane, 0), self.parts_of_lane)

    def sizes(self, start: int, stop: int) -> NDArray[np.int64]:
        """The number of samples of each lane at positions from `start` to before `stop`."""
        lanes = range(self.num_lanes)
        return np.array([self.passed(lane, stop) - self.passed(lane, start) for lane in lanes], np.int64)

    def position_of(self, lane: int, index: int) -> int:
        """The position of a lane's sample number `index`, from position 0 on."""
        rounds, rest = divmod(index, self.parts_of_lane)
        return rounds * self.num_parts + lane * self.parts_of_lane + rest
