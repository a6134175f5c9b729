"""Outside trackers that the lines of a training's log go to as well: TensorBoard, Weights & Biases, trackio."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from blip_bootstrap.config import TrackerName
from blip_bootstrap.errors import InputError

PACKAGES: Mapping[TrackerName, str] = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}
"""The package of each tracker, imported only where it is asked for."""

FLUSH_S = 5
"""Seconds that a point may take to the disk."""

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """One tracker's run."""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Show the figures of a line at its step."""

    def close(self) -> None:
        """End the run."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a training: its folder, the project, an id for all of its starts, and where it is.

    `step` is the number of steps that were done before this start; 0: it begins.
    """

    out: Path
    project: str
    id: str
    step: int

    @property
    def name(self) -> str:
        """The name shown: the last two folders, which are step and recipe."""
        return "-".join(self.out.resolve().parts[-2:])


class TensorBoard:
    """Event files beside metrics.jsonl, for `tensorboard --logdir`."""

    def __init__(self, package: Any, run: TrackedRun) -> None:
        # Lines after the checkpoint are written again: without purge_step they would be there twice.
        purged = {"purge_step": run.step + 1} if run.step else {}
        # Files are named by seconds: two starts in one second would write one. A thread writes, and `flush` does not
        # wait for what is on its way there.
        named = {"logdir": str(run.out), "filename_suffix": f".{run.step}"}
        self.writer = package.SummaryWriter(**named, **purged, flush_secs=FLUSH_S)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Write a point of each figure; it is on the disk within seconds."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the file."""
        self.writer.close()


class Logged:
    """A run of Weights & Biases or of trackio, which have one way to take figures."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures at their step; W&B leaves out steps that it has already."""
        self.run.log(dict(figures), step=step)

    def close(self) -> None:
        """End the run, once all is sent."""
        self.run.finish()


def _wandb(package: Any, run: TrackedRun) -> Tracker:
    settings = {"console": "off", "login_timeout": 30}  # the terminal is the progress's; nobody may be there to log in
    return Logged(package.init(project=run.project, id=run.id, name=run.name, resume="allow", settings=settings))


def _trackio(package: Any, run: TrackedRun) -> Tracker:
    # It knows a run by its name; `allow` goes on with it.
    return Logged(package.init(project=run.project, name=f"{run.name}-{run.id}", resume="allow"))


OPEN: Mapping[TrackerName, Callable[[Any, TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard, "wandb": _wandb, "trackio": _trackio,
}  # fmt: skip


class Trackers:
    """All trackers of a training. One that fails is told once and left out from then on: no training ends by it."""

    def __init__(self, names: Sequence[TrackerName] = (), project: str = "blip-bootstrap") -> None:
        self.names, self.project, self.id = names, project, ""
        self._open: dict[TrackerName, Tracker] = {}

    def start(self, out: Path, step: int) -> None:
        """Begin the run of each tracker, or go on with it after `step`. Raises InputError where a package lacks."""
        check_trackers(self.names)
        self.id = self.id or secrets.token_hex(4)
        run = TrackedRun(out, self.project, self.id, step)
        for name in self.names:
            with self._surviving(name):
                self._open[name] = OPEN[name](import_module(PACKAGES[name]), run)  # an extra, imported if asked for

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Give a line of the log to each tracker."""
        for name, tracker in list(self._open.items()):
            with self._surviving(name):
                tracker.write(step, figures)

    def close(self) -> None:
        """End the run of each tracker."""
        for name, tracker in list(self._open.items()):
            with self._surviving(name):
                tracker.close()
        self._open.clear()

    @contextmanager
    def _surviving(self, name: TrackerName) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises, the training goes on
            self._open.pop(name, None)
            said = " ".join(str(error).split())[:300]
            log.warning("%s: left out from now on (%s: %s); metrics.jsonl has all", name, type(error).__name__, said)


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Raise InputError if the package of a tracker is not installed."""
    for line in missing_trackers(names):
        raise InputError(line)


def missing_trackers(names: Sequence[TrackerName]) -> list[str]:
    """A line for each tracker whose package is not installed."""
    return [
        f"optimizer.trackers: {name} needs the package {PACKAGES[name]}; install it: "
        "pip install 'blip-bootstrap[trackers]'"
        for name in names
        if find_spec(PACKAGES[name]) is None
    ]
