"""Runs trainings where they belong: in this process, or as a Ray task, or as a TorchTrainer; shows how far they are."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from blip_bootstrap.config import Device, RayConfig
from blip_bootstrap.errors import ConfigError
from blip_bootstrap.machine import num_cores
from blip_bootstrap.progress import Progress
from blip_bootstrap.stores.store import open_input
from blip_pipelines.cluster.resources import NO_RAY, takes_gpu
from blip_pipelines.cluster.session import connect

Counts = dict[str, Any]

Call = Callable[[], Mapping[str, Any]]

METRICS = "metrics.jsonl"

POLL_S, POLL_STORE_S = 0.5, 3.0

SHOWN = (
    "loss", "itc", "itm", "lm", "samples_per_s", "feed_wait", "mfu", "gpu_memory_gib", "skipped_steps", "loss_spikes",
)  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """One training: `call` runs it in each worker, resumes from what it finds in `out`, and returns its counts.

    `sizes` are the numbers of workers that it may go on with where machines are lost, ascending, `num_workers` last;
    empty: no other than `num_workers`.
    """

    name: str
    out: Path
    steps: int
    call: Call
    num_workers: int = 1
    threads: int = 0
    device: Device = "auto"
    sizes: tuple[int, ...] = ()
    stall_timeout_s: float = 600.0


@dataclass(frozen=True)
class Place:
    """Where a training runs: in this process, or on Ray as one task or as a TorchTrainer, with a GPU or without.

    On Ray it waits `nodes_timeout_s` for machines that are not there.
    """

    kind: Literal["here", "task", "trainer"]
    gpu: bool = False
    nodes_timeout_s: float = 3600.0


def place_of_task(config: RayConfig, device: Device) -> Place:
    """Where work for one process runs; connects to Ray where that is a task of Ray's."""
    if config.address == NO_RAY:
        return Place("here")
    connect(config)
    return Place("task", takes_gpu(device), config.nodes_timeout_s)


def place_of_training(job: Training, config: RayConfig) -> Place:
    """Where a training runs; connects to Ray where it runs there.

    Raises ConfigError for several workers in one task, or more than a Ray on this machine, which does not grow, holds.

    One worker on the CPU is a plain task with retries: a TorchTrainer starts five processes for it, 7-20 s on two
    cores. Several workers, or a GPU, are a TorchTrainer.
    """
    place = place_of_task(config, job.device)
    one = "ray.address: none" if place.kind == "here" else "ray.trainer: task" if config.trainer == "task" else None
    if one and job.num_workers > 1:
        raise ConfigError([f"{one} runs one worker, num_workers is {job.num_workers}"])
    if one or (config.trainer == "auto" and job.num_workers == 1 and not place.gpu):
        return place
    if config.address == "local":
        _check_local(job, place.gpu)
    return replace(place, kind="trainer")


def _check_local(job: Training, gpu: bool) -> None:
    from blip_pipelines.train.room import room_for  # ray takes two seconds to import

    if (room := room_for(gpu)) < job.num_workers:
        each, more = ("a CPU and a GPU", "") if gpu else ("a CPU", f", or set ray.num_cpus to {job.num_workers}")
        raise ConfigError(
            [f"{job.name}: num_workers is {job.num_workers}, {each} each, and Ray has {room} here; lower it{more}"]
        )


def train(job: Training, config: RayConfig) -> Counts:
    """Run a training to its end and return its counts; a worker of Ray's that dies is started again and resumes.

    Raises what the training raises, RunFailed where workers die again and again.
    """
    place = place_of_training(job, config)
    with following([job.out / METRICS], job.name, job.steps):
        if place.kind == "trainer":
            from blip_pipelines.train.trainer import run_trainer  # ray takes two seconds to import

            counts = run_trainer(job, place.gpu, place.nodes_timeout_s)
        else:
            counts = run_tasks([job], 1, place)[0]
    if counts.get("itm_at_rest"):
        log.warning("%s: ITM learned nothing (its loss is that of guessing); see docs/training.md", job.name)
    if skipped := counts.get("skipped_steps"):
        log.warning("%s: %d of %d steps were skipped, their loss was not finite", job.name, skipped, job.steps)
    if spikes := counts.get("loss_spikes"):
        log.warning("%s: the loss of %d of %d steps lay far above that of those before", job.name, spikes, job.steps)
    return counts


def run_tasks(jobs: Sequence[Training], num_parallel: int, place: Place) -> list[Counts]:
    """Run each job in one process: here in turn, or as Ray tasks, `num_parallel` at a time.

    A task whose process dies is run again. Raises what the first job that fails raises.
    """
    if place.kind == "here":
        return [run_call(job.call, job.threads or num_cores()) for job in jobs]
    from blip_pipelines.train import on_ray  # ray takes two seconds to import

    return on_ray.run_tasks(jobs, num_parallel, place.gpu, place.nodes_timeout_s)


def run_call(call: Call, threads: int) -> Counts:
    """In the process that trains: run `call` with so many threads of torch."""
    import torch  # where it trains, and nowhere else

    torch.set_num_threads(threads)
    return dict(call())


@contextmanager
def following(files: Sequence[Path], name: str, total: int) -> Iterator[None]:
    """While the body runs, show the steps and losses that trainings write to their metrics.jsonl."""
    stop, logs = threading.Event(), [Followed(file) for file in files]
    with Progress(name, total, "steps") as progress:
        progress.begin(_num_steps(logs)[0])
        thread = threading.Thread(target=_follow, args=(logs, progress, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


class Followed:
    """A training's metrics.jsonl, which is written here, or by another machine, which puts it to the run's store.

    That it does at each checkpoint. A copy here that does not change is of the command before.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._begun = self._stamp()

    @property
    def is_written_here(self) -> bool:
        """Whether the file here has changed since the training began."""
        return self._stamp() != self._begun

    def last_line(self) -> dict[str, float]:
        """The last whole line, or nothing where there is none yet."""
        try:
            with (None if self.is_written_here else open_input(self.file)) or self.file.open("rb") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - 4096))
                found: dict[str, float] = json.loads(stream.read().decode().splitlines()[-1])
        except (OSError, ValueError, IndexError):
            return {}
        return found

    def _stamp(self) -> tuple[int, int]:
        try:
            stat = self.file.stat()
        except OSError:
            return 0, 0
        return stat.st_size, stat.st_mtime_ns


def _follow(logs: Sequence[Followed], progress: Progress, stop: threading.Event) -> None:
    while True:
        ended = stop.wait(POLL_S if any(log.is_written_here for log in logs) else POLL_STORE_S)
        steps, last = _num_steps(logs)
        if last:
            progress.update(steps, **{key: last[key] for key in SHOWN if key in last})
        if ended:
            return


def _num_steps(logs: Sequence[Followed]) -> tuple[int, dict[str, float]]:
    """The steps that all trainings have done, and the last line of the last one that has begun."""
    lines = [line for log in logs if (line := log.last_line())]
    return int(sum(line["step"] for line in lines)), lines[-1] if lines else {}
