"""Trainings on Ray: as tasks, or as a TorchTrainer; imported only where Ray is used."""

from __future__ import annotations

import logging
import pickle
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchTrainer

from blip_bootstrap.ending import sigterm_came
from blip_bootstrap.errors import BlipBootstrapError, RunFailed
from blip_bootstrap.machine import num_cores
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.store import fetched, gone, is_there, publish_rest, store_of
from blip_pipelines.cluster.errors import Raised, errors_in_one_line, first_line, packed, unpacked
from blip_pipelines.cluster.sees_root import Roots, roots_now, see
from blip_pipelines.train.failures import MAX_FAILURES, Failures
from blip_pipelines.train.runner import Call, Counts, Training, run_call

SCRATCH, OUTCOME, RAISED = ".trainer", "outcome.pickle", "raised.pickle"

DIED = (
    ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
)  # fmt: skip
"""What Ray raises for a task whose process or node is gone."""

log = logging.getLogger(__name__)


def run_tasks(jobs: Sequence[Training], num_parallel: int, gpu: bool) -> list[Counts]:
    """Run each job as one Ray task, `num_parallel` at a time; a job whose process dies is run again.

    It goes on from its last checkpoint, until it dies MAX_FAILURES times in a row without a new one. So it does after
    an error that is not ours, if there is a new checkpoint since it was started: what it did once it may do again.
    Raises what the first job that fails raises, RunFailed for errors that are not ours.
    """
    # Ray counts all retries of a task, however far it has come between them: weeks have more than three bad moments.
    remote = ray.remote(num_cpus=1, num_gpus=int(gpu), max_retries=0)(_outcome_of)
    share = max(1, num_cores() // num_parallel)
    running: dict[Any, int] = {}
    roots = roots_now()
    counts: dict[int, Counts] = {}
    waiting = list(enumerate(jobs))
    failures = [Failures(job.name, job.out) for job in jobs]
    while waiting or running:
        while waiting and len(running) < num_parallel:
            number, job = waiting.pop(0)
            # Ray gives a one-CPU task one thread; a training alone on the machine may have them all.
            name = f"train {job.name}" if job.steps else job.name  # on Ray's dashboard, and in the process's title
            running[remote.options(name=name).remote(job, job.threads or share, roots)] = number
        done, _ = ray.wait(list(running), num_returns=1)
        number = running.pop(done[0])
        with errors_in_one_line(jobs[number].name):
            outcome = _outcome(done[0], failures[number])
        if outcome is None:
            waiting.insert(0, (number, jobs[number]))
            continue
        fetched(jobs[number].out)  # of a run on a store, what another machine has made
        counts[number] = outcome
    return [counts[number] for number in range(len(jobs))]


def _outcome(task: Any, failures: Failures) -> Counts | None:
    """The counts of a task that has ended; None where it is to be run again."""
    try:
        outcome: Counts | Raised = ray.get(task)
    except DIED as error:
        failures.count(f"its process died: {first_line(error)}")
        log.warning("%s: its process died; it goes on from step %s", failures.name, f"{failures.step:,}")
        return None
    if not isinstance(outcome, Raised):
        return outcome
    error = unpacked(failures.name, outcome)
    if outcome.is_ours or not failures.count(outcome.message):
        raise error
    log.warning("%s; it goes on from step %s", error, f"{failures.step:,}")
    return None


def _outcome_of(job: Training, threads: int, roots: Roots) -> Counts | Raised:
    """In the worker: the counts of a training, or what it raised."""
    try:
        return _train(job.call, job.out, threads, roots)
    except Exception as error:  # noqa: BLE001 - raised by the driver
        return packed(error)


def _train(call: Call, out: Path, threads: int, roots: Roots) -> Counts:
    """In a worker: go on with what `out` has, by whichever node, and leave all that is made on the run's store."""
    see(roots)
    fetched(out)
    counts = run_call(call, threads)
    files = (file.relative_to(out) for file in out.rglob("*") if file.is_file())
    publish_rest(out, [str(name) for name in files if not any(part.startswith(".") for part in name.parts)])
    return counts


def run_trainer(job: Training, gpu: bool) -> Counts:
    """Run a training as a TorchTrainer with `job.num_workers` workers and return the counts of rank 0.

    All workers are started again where one dies, MAX_FAILURES times. Raises what a worker raised, RunFailed for errors
    that are not ours and where workers die again and again.
    """
    scratch = job.out.resolve() / SCRATCH
    gone(scratch)
    scratch.mkdir(parents=True)
    store = store_of(scratch)
    threads = job.threads or max(1, num_cores() // job.num_workers)
    trainer = TorchTrainer(
        _run_worker,
        train_loop_config={
            "call": job.call,
            "threads": threads,
            "scratch": str(scratch),
            "out": job.out,
            "roots": roots_now(),
        },
        scaling_config=ScalingConfig(num_workers=job.num_workers, use_gpu=gpu, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name=job.name.replace(" ", "-"),
            storage_path=store.place(scratch) if store else str(scratch),
            storage_filesystem=store.reader if store else None,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    try:
        with _quiet("ray.train"), _interrupts_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Ray Train copies Ray Data's old settings
            trainer.fit()
    except Exception as error:
        if (raised := _read(scratch / RAISED)) is not None:
            raise unpacked(job.name, raised) from error
        raise RunFailed(f"{job.name}: {first_line(error)}; run again to go on") from error
    outcome = _read(scratch / OUTCOME)
    gone(scratch)
    fetched(job.out)  # of a run on a store, what another machine has made
    if isinstance(outcome, Raised):
        raise unpacked(job.name, outcome)
    counts: Counts = outcome
    return counts


def _read(file: Path) -> Any:
    """What a worker has written; None where it has not."""
    return pickle.loads(fetched(file).read_bytes()) if is_there(file) else None


def _run_worker(config: dict[str, Any]) -> None:
    """In each worker of a TorchTrainer: train, and write down what came of it.

    An error of ours is an outcome, too: no restart would mend it. Any other may be mended, and is raised.
    """
    scratch = Path(config["scratch"])
    outcome = scratch / OUTCOME
    if is_there(outcome):
        return
    try:
        counts = _train(config["call"], config["out"], config["threads"], config["roots"])
    except Exception as error:
        write_whole(outcome if isinstance(error, BlipBootstrapError) else scratch / RAISED, pickle.dumps(packed(error)))
        raise
    if get_context().get_world_rank() == 0:
        write_whole(outcome, pickle.dumps(counts))


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
    except SystemExit as end:
        if sigterm_came():
            raise
        raise KeyboardInterrupt from end
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)
