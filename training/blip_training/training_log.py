"""The log of a training: metrics.jsonl, a callback for live progress, and the watch over a collapsed ITM loss."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

Progress = Callable[[int, Mapping[str, float]], None]

METRICS = "metrics.jsonl"

# The entropy of one match among two negatives: what ITM costs a model that has learned nothing.
ITM_AT_REST = -(1 / 3 * math.log(1 / 3) + 2 / 3 * math.log(2 / 3))
REST_TOLERANCE = 0.01
REST_LINES = 10

log = logging.getLogger(__name__)


class TrainingLog:
    """Means of the figures since the last line, to metrics.jsonl; the device is asked for numbers once a line."""

    def __init__(self, path: Path, writes: bool, progress: Progress | None) -> None:
        self.path, self.writes, self.progress = path, writes, progress
        self.sums: dict[str, Tensor] = {}
        self.notes: dict[str, Tensor | float] = {}
        self.steps = 0
        self.last: dict[str, float] = {}
        self.itm: list[float] = []
        self.warned = False
        self.clock = time.perf_counter()
        self._timed = 0

    def start(self, step: int) -> None:
        """Forget the lines after `step`, which will be written again."""
        self.clock, self._timed = time.perf_counter(), 0
        if self.writes:
            lines = self.path.read_text().splitlines() if self.path.exists() else []
            self.path.write_text("".join(f"{line}\n" for line in lines if _step_of(line) <= step))

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Part of a step's losses."""
        for name, loss in losses.items():
            self.sums[name] = self.sums[name] + loss if name in self.sums else loss

    def note(self, **figures: Tensor | float) -> None:
        """End of a step; `figures` are shown as they are, not as a mean."""
        self.notes = figures
        self.steps += 1
        self._timed += 1

    def write(self, step: int, batch_size: int) -> None:
        """One line: the means since the last one."""
        now = time.perf_counter()
        line = {name: float(total) / self.steps for name, total in self.sums.items()}
        line |= {name: float(value) for name, value in self.notes.items()}
        line["samples_per_s"] = self._timed * batch_size / max(now - self.clock, 1e-9)
        self.sums, self.steps, self.clock, self._timed, self.last = {}, 0, now, 0, line
        self._watch_itm(step, line)
        if self.writes:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **{k: _short(v) for k, v in line.items()}}) + "\n")
            if self.progress:
                self.progress(step, line)

    def _watch_itm(self, step: int, line: Mapping[str, float]) -> None:
        if "itm" not in line:
            return
        self.itm = [*self.itm, line["itm"]][-REST_LINES:]
        if self.at_rest() and not self.warned:
            self.warned = True
            log.warning(
                "step %d: the ITM loss rests at %.4f, what guessing costs: it learns nothing", step, line["itm"]
            )

    def at_rest(self) -> bool:
        """Whether ITM has cost as much as guessing in all of the last lines."""
        return len(self.itm) == REST_LINES and all(abs(x - ITM_AT_REST) < REST_TOLERANCE for x in self.itm)

    def state(self) -> dict[str, Any]:
        """For the checkpoint: a resumed run's lines are those of one that was not killed."""
        return {"sums": dict(self.sums), "steps": self.steps, "itm": self.itm, "warned": self.warned}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Undo `state`."""
        self.sums, self.steps = dict(state["sums"]), state["steps"]
        self.itm, self.warned = state["itm"], state["warned"]


def _short(value: float) -> float:
    return float(f"{value:.9g}")


def _step_of(line: str) -> float:
    """A line's step; a line cut by a kill counts as after everything."""
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf
