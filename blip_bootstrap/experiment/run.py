"""`blip-bootstrap experiment`: run the arms of an experiment for each seed, and write what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from blip_bootstrap.experiment.check import check_job
from blip_bootstrap.experiment.file import Split, Stop
from blip_bootstrap.experiment.plan import Job
from blip_bootstrap.experiment.record import Record, key_of, read_record, record_file
from blip_bootstrap.experiment.results import unknown_figures
from blip_bootstrap.experiment.seed import Told, run_seed
from blip_bootstrap.experiment.side_by_side import run_seeds
from blip_bootstrap.experiment.stop import Stopped, arms_in_turn, look_back
from blip_bootstrap.progress import Say
from blip_bootstrap.schemas.shown_tables import RESULTS_FILE
from blip_bootstrap.storage.files import check_writable


@dataclass
class Finished:
    """What came out: the records of arms that are there, the arms that failed, and where a series of rounds stopped."""

    records: list[Record] = field(default_factory=list)
    failed: list[Told] = field(default_factory=list)
    stopped: Stopped | None = None


@dataclass
class _Progress:
    """Tells one line for each arm and seed, with the time that the others will take."""

    total: int
    say: Say
    name: str
    num_parallel: int = 1
    told: set[tuple[int, str]] = field(default_factory=set)
    made: int = 0
    started: float = field(default_factory=time.monotonic)
    failed: list[Told] = field(default_factory=list)
    look: Callable[[Told], None] = lambda told: None

    def __call__(self, told: Told) -> None:
        self.told.add((told.seed, told.arm))
        self.total = max(self.total, len(self.told))  # an arm that another needs was not counted
        self.made += told.kind == "done"
        head = f"{self.name}  seed {told.seed}  {told.arm}"
        if told.kind == "failed":
            self.failed.append(told)
            self.say(f"{head}: failed, {told.text}")
            return
        what = "there already" if told.kind == "kept" else f"done in {_minutes(told.seconds)}"
        self.say(f"{head}: {what}  ({len(self.told)} of {self.total}{self._left()})")
        self.look(told)

    def _left(self) -> str:
        left = self.total - len(self.told)
        if not left or not self.made:
            return ""
        at_work = (min(self.num_parallel, left + 1) - 1) / 2  # beside the one that is told, half done on average
        return f", some {_minutes(left * (time.monotonic() - self.started) / (self.made + at_work))} left"


@dataclass
class _Figures:
    """Tells, once the first arm is there whose round has all figures, which of those asked for it lacks."""

    job: Job
    split: Split
    say: Say
    is_told: bool = False

    def __call__(self, told: Told) -> None:
        arms = self.job.experiment.arms
        full = [name for name, arm in arms.items() if not arm.control and arm.round] or [*arms]
        if self.is_told or told.arm not in full:
            return
        self.is_told = True
        records = found_records(self.job, [told.seed], [*arms], self.split)
        for line in unknown_figures(self.job.experiment, records):
            self.say(f"{self.job.experiment.name}  so far {line}")


def _say_of(say: Say, seed: int, line: str) -> None:
    say(f"[{seed}] {line}")


def _minutes(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def run_experiment(
    job: Job, seeds: Sequence[int], names: Sequence[str], split: Split, num_parallel: int, say: Say
) -> Finished:
    """Run the arms `names` for each seed, as far as they are not there; `num_parallel` seeds are run side by side.

    An arm that fails does not keep the others from being run. Raises ConfigError for what is wrong with the experiment,
    before anything is made.
    """
    check_job(job)
    check_writable(job.root / RESULTS_FILE)
    stop = job.experiment.stop
    splits = (split,) if stop is None or stop.split == split else (split, stop.split)
    turns = arms_in_turn(stop, names)
    progress = _Progress(len(seeds) * sum(map(len, turns)), say, job.experiment.name, num_parallel)
    progress.look = _Figures(job, split, say)
    stopped: Stopped | None = None
    for at, turn in enumerate(turns):
        if num_parallel > 1 and len(seeds) > 1:
            run_seeds(job, seeds, turn, splits, num_parallel, progress)
        else:
            for seed in seeds:
                run_seed(job, seed, turn, splits, progress, partial(_say_of, say, seed))
        if stop and (stopped := _look_back(job, stop, seeds, turns, at)):
            say(f"{job.experiment.name}  {stopped.told}")
            break
    return Finished(found_records(job, seeds, names, split), progress.failed, stopped)


def _look_back(job: Job, stop: Stop, seeds: Sequence[int], turns: Sequence[tuple[str, ...]], at: int) -> Stopped | None:
    """What the stop rule says once the turn `at` is done."""
    run, to_come = ([name for turn in some for name in turn] for some in (turns[: at + 1], turns[at + 1 :]))
    records = found_records(job, seeds, stop.arms, stop.split)
    return look_back(stop, records, run, at == len(turns) - 1, to_come)


def found_records(job: Job, seeds: Sequence[int], names: Sequence[str], split: Split) -> list[Record]:
    """The records of the arms that are there, by the arms' order and then by seed."""
    found = []
    homes = {name: group for group in job.groups() for name in group.arms}
    for name in (one for one in job.experiment.arms if one in names):
        for seed in seeds:
            root = job.folder(homes[name], seed)
            path: Path = record_file(root, job.experiment.name, name, split)
            if record := read_record(path, key_of(job, name, split), root):
                found.append(record)
    return found
