"""Trainings on Ray as tasks, and what a worker of Ray does in a training; imported only where Ray is used."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from blip_bootstrap.machine import num_cores
from blip_bootstrap.stores.store import fetched, publish_rest
from blip_pipelines.cluster.sees_root import Roots, roots_now, see
from blip_pipelines.failures.errors import Raised, errors_in_one_line, first_line, packed, unpacked
from blip_pipelines.train.failures import Failures
from blip_pipelines.train.room import first_done
from blip_pipelines.train.runner import Call, Counts, Training, run_call

DIED = (
    ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
)  # fmt: skip
"""What Ray raises for a task whose process or node is gone."""

log = logging.getLogger(__name__)


def run_tasks(jobs: Sequence[Training], num_parallel: int, gpu: bool, nodes_timeout_s: float) -> list[Counts]:
    """Run each job as one Ray task, `num_parallel` at a time; a job whose process dies is run again.

    It goes on from its last checkpoint, until it dies MAX_FAILURES times in a row without a new one. So it does after
    an error that is not ours, if there is a new checkpoint since it was started: what it did once it may do again.
    Raises what the first job that fails raises, RunFailed for errors that are not ours, or where no machine is there
    that could run one for `nodes_timeout_s`.
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
        done = first_done(running, jobs[min(running.values())].name, gpu, nodes_timeout_s)
        number = running.pop(done)
        with errors_in_one_line(jobs[number].name):
            outcome = _outcome(done, failures[number])
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
    except DIED as died:
        failures.count(f"its process died: {first_line(died)}")
        log.warning("%s: its process died; it goes on from step %s", failures.name, f"{failures.step:,}")
        return None
    if not isinstance(outcome, Raised):
        return outcome
    told = f"{outcome.name}: {outcome.message}"
    if outcome.is_ours or not failures.count(told):
        raise unpacked(failures.name, outcome)
    log.warning("%s: %s; it goes on from step %s", failures.name, told, f"{failures.step:,}")
    return None


def _outcome_of(job: Training, threads: int, roots: Roots) -> Counts | Raised:
    """In the worker: the counts of a training, or what it raised."""
    try:
        return train_in_worker(job.call, job.out, threads, roots)
    except Exception as error:  # noqa: BLE001 - raised by the driver
        return packed(error)


def train_in_worker(call: Call, out: Path, threads: int, roots: Roots, first: bool = True) -> Counts:
    """In a worker: go on with what `out` has, by whichever node, and leave all that is made on the run's store.

    Of several workers the `first` alone leaves it: the others' copies are of when they began, and would replace it.
    """
    see(roots)
    fetched(out)
    counts = run_call(call, threads)
    if first:
        files = (file.relative_to(out) for file in out.rglob("*") if file.is_file())
        publish_rest(out, [str(name) for name in files if not any(part.startswith(".") for part in name.parts)])
    return counts
