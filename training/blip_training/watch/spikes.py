"""Spikes of the loss: steps whose loss lies far above that of the steps before."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

WINDOW, LEAST = 1000, 100
"""A step is compared with this many steps before it, and with no fewer than `LEAST`."""

FAR, NOISE = 8.0, 0.05
"""How far above the median a spike lies: in median deviations from it, and at least this share of it.

Eight are 5.4 standard deviations of evenly noisy losses. The share is for losses that hardly differ.
"""


class Spikes:
    """Finds spikes, and counts them. The median of the steps before hardly moves when one comes."""

    def __init__(self) -> None:
        self.count = 0
        self.before: list[float] = []
        self.parts: list[str] = []

    def find(self, losses: Mapping[int, float], parts: Sequence[str]) -> list[tuple[int, float, float]]:
        """The spikes among the `losses` of steps by their numbers: each with its step, loss and the median before.

        `parts` names what a loss is the sum of: with another part (ITM joins at `itm.start_step`) a new level begins.
        """
        if list(parts) != self.parts:
            self.before, self.parts = [], list(parts)
        found = []
        if len(self.before) >= LEAST:
            median = statistics.median(self.before)
            deviation = statistics.median(abs(loss - median) for loss in self.before)
            limit = median + max(FAR * deviation, NOISE * abs(median))
            found = [(step, loss, median) for step, loss in losses.items() if loss > limit]
        self.before = [*self.before, *losses.values()][-WINDOW:]
        self.count += len(found)
        return found

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"count": self.count, "before": self.before, "parts": self.parts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.count, self.before, self.parts = state["count"], list(state["before"]), list(state["parts"])
