"""Runs a training on Ray: as a task, or as a TorchTrainer with several workers; shows how far it is."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip_bootstrap import errors
from blip_bootstrap.config import Device, RayConfig
from blip_bootstrap.ending import Terminated
from blip_bootstrap.errors import BlipBootstrapError, RunFailed
from blip_bootstrap.progress import Progress
from blip_bootstrap.storage.files import write_whole
from blip_pipelines.cluster.errors import errors_in_one_line, first_line
from blip_pipelines.cluster.resources import NO_RAY, takes_gpu
from blip_pipelines.cluster.session import connect

Counts = dict[str, Any]

Call = Callable[[], Mapping[str, Any]]

METRICS = "metrics.jsonl"

SCRATCH, OUTCOME = ".ray_train", "outcome.json"

MAX_FAILURES = 3

POLL_S = 0.5

SHOWN = ("loss", "itc", "itm", "lm", "skipped_steps")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """One training: `call` runs it in each worker, resumes from what it finds in `out`, and returns its counts."""

    name: str
    out: Path
    steps: int
    call: Call
    num_workers: int = 1
    threads: int = 0
    device: Device = "auto"


def train(job: Training, config: RayConfig) -> Counts:
    """Run a training to its end and return its counts; a worker that dies is started again and resumes.

    One worker on the CPU is a plain Ray task with retries: a TorchTrainer starts five processes for it, 7-20 s on two
    cores. Several workers, or a GPU, are a TorchTrainer. Raises what the training raises, RunFailed where workers die
    again and again.
    """
    connect(config)
    gpu, here = wants_gpu(job.device, config), config.address == NO_RAY
    if (here or config.trainer == "task") and job.num_workers > 1:
        asked = "ray.address: none" if here else "ray.trainer: task"
        raise errors.ConfigError([f"{asked} runs one worker, num_workers is {job.num_workers}"])
    plain = here or config.trainer == "task" or (config.trainer == "auto" and job.num_workers == 1 and not gpu)
    with errors_in_one_line(job.name), following([job.out / METRICS], job.name, job.steps):
        counts = run_tasks([job], 1, gpu, config)[0] if plain else _run_trainer(job, gpu)
    if counts.get("itm_at_rest"):
        log.warning("%s: ITM learned nothing (its loss rests at 0.6365); see docs/training.md on collapse", job.name)
    if skipped := counts.get("skipped_steps"):
        log.warning("%s: %d of %d steps were skipped, their loss was not finite", job.name, skipped, job.steps)
    return counts


def wants_gpu(device: Device, config: RayConfig) -> bool:
    """Whether a training on `device` takes a GPU of the connected cluster; without Ray there is none to be asked."""
    return config.address != NO_RAY and takes_gpu(device)


def run_tasks(jobs: Sequence[Training], num_parallel: int, gpu: bool, config: RayConfig) -> list[Counts]:
    """Each job as one Ray task, so many at a time; one whose process dies is run again. Without Ray: in turn here."""
    if config.address == NO_RAY:
        return [_run_call(job.call, job.threads or os.cpu_count() or 1) for job in jobs]
    import ray

    remote = ray.remote(num_cpus=1, num_gpus=int(gpu), max_retries=MAX_FAILURES)(_run_call)
    refs: dict[Any, int] = {}
    counts: dict[int, Counts] = {}
    for number, job in enumerate(jobs):
        if len(refs) == num_parallel:
            _take_finished(refs, counts)
        refs[remote.remote(job.call, job.threads or max(1, (os.cpu_count() or 1) // num_parallel))] = number
    while refs:
        _take_finished(refs, counts)
    return [counts[number] for number in range(len(jobs))]


def _take_finished(refs: dict[Any, int], counts: dict[int, Counts]) -> None:
    import ray

    done, _ = ray.wait(list(refs), num_returns=1)
    for ref in done:
        counts[refs.pop(ref)] = ray.get(ref)


def _run_call(call: Call, threads: int) -> Counts:
    """In the worker. Ray gives a one-CPU task one thread; a training alone on the machine may have them all."""
    import torch

    torch.set_num_threads(threads)
    return dict(call())


def _run_trainer(job: Training, gpu: bool) -> Counts:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    scratch = job.out.resolve() / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    threads = job.threads or max(1, (os.cpu_count() or 1) // job.num_workers)
    trainer = TorchTrainer(
        _run_worker,
        train_loop_config={"call": job.call, "threads": threads, "outcome": str(scratch / OUTCOME)},
        scaling_config=ScalingConfig(num_workers=job.num_workers, use_gpu=gpu, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name=job.name.replace(" ", "-"),
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    try:
        with _quiet("ray.train"), _interrupts_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Ray Train copies Ray Data's old settings
            trainer.fit()
    except Exception as error:
        if isinstance(error, BlipBootstrapError | KeyboardInterrupt):
            raise
        raise RunFailed(f"{job.name}: {first_line(error)}; run again to go on") from error
    return _outcome(scratch)


def _outcome(scratch: Path) -> Counts:
    """What rank 0 returned, or the error that a worker left for the user."""
    found: dict[str, Any] = json.loads((scratch / OUTCOME).read_text(encoding="utf-8"))
    shutil.rmtree(scratch)
    if "error" in found:
        raise getattr(errors, found["error"], RunFailed)(found["message"])
    counts: Counts = found["counts"]
    return counts


def _run_worker(config: dict[str, Any]) -> None:
    """In each worker of a TorchTrainer. The user's mistake is written down: no restart would mend it."""
    import torch
    from ray.train import get_context

    outcome = Path(config["outcome"])
    if outcome.exists():
        return
    torch.set_num_threads(config["threads"])
    try:
        counts = dict(config["call"]())
    except BlipBootstrapError as error:
        write_whole(outcome, json.dumps({"error": type(error).__name__, "message": str(error)}))
        raise
    if get_context().get_world_rank() == 0:
        write_whole(outcome, json.dumps({"counts": counts}))


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Ray Train says in a dozen lines that it starts and ends; the step has its own progress."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Ray Train answers Ctrl-C by ending the process with 0, and goes on to answer it once the training is over."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except Terminated:
        raise
    except SystemExit as end:
        raise KeyboardInterrupt from end
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)


@contextmanager
def following(files: Sequence[Path], name: str, total: int) -> Iterator[None]:
    """While the body runs, show the steps and losses that trainings write to their metrics.jsonl."""
    stop = threading.Event()
    with Progress(name, total, "steps") as progress:
        progress.begin(_num_steps(files)[0])
        thread = threading.Thread(target=_follow, args=(files, progress, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _follow(files: Sequence[Path], progress: Progress, stop: threading.Event) -> None:
    while True:
        ended = stop.wait(POLL_S)
        steps, last = _num_steps(files)
        if last:
            progress.update(steps, **{key: last[key] for key in SHOWN if key in last})
        if ended:
            return


def _num_steps(files: Sequence[Path]) -> tuple[int, dict[str, float]]:
    """The steps that all trainings have done, and the last line of the last one that has begun."""
    lines = [line for file in files if (line := _last_line(file))]
    return int(sum(line["step"] for line in lines)), lines[-1] if lines else {}


def _last_line(file: Path) -> dict[str, float]:
    """The last whole line of a metrics.jsonl, or nothing where there is none yet."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - 4096))
            found: dict[str, float] = json.loads(stream.read().decode().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}
    return found
