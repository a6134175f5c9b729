"""The log of a training: metrics.jsonl, a callback for each line, and a warning when ITM learns nothing."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blip_bootstrap.errors import is_disk_full
from blip_bootstrap.storage.files import write_whole
from blip_training.watch.pace import Pace
from blip_training.watch.spikes import Spikes
from blip_training.watch.trackers import Trackers

OnStep = Callable[[int, Mapping[str, float]], None]
"""Called after each line of the log with the number of steps done and the line's figures."""

LOG_FILE = "metrics.jsonl"

REST_TOLERANCE = 0.01

REST_LINES = 10

log = logging.getLogger(__name__)


def itm_of_guessing(num_negatives: float) -> float:
    """The ITM loss of a model that has learned nothing: the entropy of one positive and so many negatives, nats."""
    right = 1 / (1 + num_negatives)
    return -(right * math.log(right) + (1 - right) * math.log(1 - right))


ITM_AT_REST = itm_of_guessing(2)


class TrainingLog:
    """Writes means of the losses since the last line to metrics.jsonl; waits for the device only once a line."""

    def __init__(
        self, path: Path, writes: bool, on_step: OnStep | None, pace: Pace | None = None,
        trackers: Trackers | None = None,
    ) -> None:  # fmt: skip
        self.path, self.writes, self.on_step = path, writes, on_step
        self.pace, self.trackers = pace or Pace(), trackers if trackers and writes else Trackers()
        self.spikes = Spikes()
        self.step_losses: dict[int, Tensor] = {}
        self._spiking = False
        self.sums: dict[str, Tensor] = {}
        self.step_sums: dict[str, Tensor] = {}
        self.skipped, self.skipped_in_a_row = 0, 0
        self.notes: dict[str, Tensor | float] = {}
        self.steps = 0
        self.last: dict[str, float] = {}
        self.itm: list[float] = []
        self.itm_rest = ITM_AT_REST
        self.warned = False
        self.lines: list[str] = []
        self._lags = False

    def start(self, step: int) -> None:
        """Begin after `step`: lines of later steps, which will be written again, are dropped.

        Lines are those of the checkpoint, whatever befell the file; of one of an earlier version the file's.
        """
        self.trackers.start(self.path.parent, step)
        self.pace.start()
        if self.writes:
            if not self.lines and self.path.exists():
                self.lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
            self.lines = [line for line in self.lines if _step_of(line) <= step]
            write_whole(self.path, "".join(f"{line}\n" for line in self.lines))

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Add one micro-batch's share of the losses of the step under way."""
        _add(self.step_sums, losses)

    @property
    def loss(self) -> Tensor:
        """The sum of losses of the step under way, as far as added."""
        return self.step_sums["loss"]

    def watch(self, step: int, loss: Tensor) -> None:
        """Keep the loss of step number `step`, the mean over all workers: the line will tell whether it is a spike."""
        self.step_losses[step] = loss.detach()

    def note(self, **figures: Tensor | float) -> None:
        """End a step that was taken; the line shows the last of `figures`, not their means."""
        _add(self.sums, self.step_sums)
        self.notes, self.step_sums, self.skipped_in_a_row = figures, {}, 0
        self.steps += 1
        self.pace.steps += 1

    def skip(self, step: int) -> None:
        """End step number `step`, which was not taken, and forget its losses."""
        self.step_sums = {}
        self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
        self.pace.steps += 1
        if self.writes and self.skipped_in_a_row == 1:
            log.warning("step %d is skipped: its loss or gradient is not finite (%d so far)", step, self.skipped)

    def write(self, step: int, batch_size: int) -> None:
        """Write the line of step number `step`: the means since the last line."""
        line = {name: float(total) / self.steps for name, total in self.sums.items()}
        line |= {name: float(value) for name, value in self.notes.items()}
        line |= {"skipped_steps": self.skipped} if self.skipped else {}
        self._watch_spikes()
        line |= {"loss_spikes": self.spikes.count} if self.spikes.count else {}
        line |= self.pace.figures(batch_size)
        self.sums, self.notes, self.steps = {}, {}, 0
        self.last = self.last | line
        self._watch_itm(step, line)
        if self.writes:
            self._append(json.dumps({"step": step, **{name: float(f"{value:.9g}") for name, value in line.items()}}))
            self.trackers.write(step, line)
            if self.on_step:
                self.on_step(step, line)

    def _append(self, line: str) -> None:
        """Write a line; where the disk refuses it waits for the next one, and no step is lost for it.

        A disk that goes on refusing ends the training by its checkpoints (`Checkpoints`).
        """
        self.lines.append(line)
        try:
            if self._lags:
                write_whole(self.path, "".join(f"{line}\n" for line in self.lines))
            else:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(f"{line}\n")
            self._lags = False
        except OSError as error:
            if not self._lags:
                why = "no space left" if is_disk_full(error) else error.strerror or type(error).__name__
                log.warning("%s: a line cannot be written (%s); it is written with the next one", self.path, why)
            self._lags = True

    def close(self) -> None:
        """End the runs of the trackers."""
        self.trackers.close()

    def _watch_spikes(self) -> None:
        """Look for spikes in the losses of the steps since the last line; tell of the first of them."""
        steps, losses = list(self.step_losses), list(self.step_losses.values())
        values = torch.stack(losses).tolist() if losses else []
        found = self.spikes.find(dict(zip(steps, values, strict=True)), sorted(self.sums))
        self.step_losses = {}
        if found and self.writes and not self._spiking:
            log.warning(
                "step %d: a loss of %.4g, where the steps before it have %.4g in the middle: a spike (%d so far)",
                *found[0], self.spikes.count,
            )  # fmt: skip
        self._spiking = bool(found)

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
        """Whether the ITM loss was that of guessing in each of the last 10 lines."""
        return len(self.itm) == REST_LINES and all(abs(x - self.itm_rest) < REST_TOLERANCE for x in self.itm)

    def state(self) -> dict[str, Any]:
        """What the checkpoint keeps, so that a resumed run writes the lines of one that was not killed."""
        skipped = {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        watched = {"spikes": self.spikes.state(), "step_losses": dict(self.step_losses), "tracker": self.trackers.id}
        means = {"sums": dict(self.sums), "steps": self.steps, "last": self.last, "lines": list(self.lines)}
        return {"itm": self.itm, "warned": self.warned, **means, **skipped, **watched}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from what `state` gave, on another device maybe."""

        def on(kept: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
            return {name: one.to(device) for name, one in kept.items()}

        self.sums, self.steps = on(state["sums"]), state["steps"]
        self.last, self.lines = dict(state.get("last", {})), list(state.get("lines", ()))
        self.itm, self.warned = state["itm"], state["warned"]
        self.skipped, self.skipped_in_a_row = state.get("skipped", 0), state.get("skipped_in_a_row", 0)
        self.spikes.restore(state.get("spikes", self.spikes.state()))
        self.step_losses, self.trackers.id = on(state.get("step_losses", {})), state.get("tracker", "")


def _add(sums: dict[str, Tensor], losses: Mapping[str, Tensor]) -> None:
    for name, loss in losses.items():
        sums[name] = sums[name] + loss if name in sums else loss


def _step_of(line: str) -> float:
    """The step of a line; infinite for a line that a kill has cut."""
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf
