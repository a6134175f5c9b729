"""Trainings on Ray as tasks, and what a worker of Ray does in a training; imported only where Ray is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from blip_bootstrap.machine import num_cores
from blip_bootstrap.storage.store import fetched, publish_rest
from blip_pipelines.cluster.errors import Raised, errors_in_one_line, packed, unpacked
from blip_pipelines.cluster.sees_root import Roots, roots_now, see
from blip_pipelines.train.runner import Call, Counts, Training, run_call

SCRATCH, OUTCOME, RAISED = ".trainer", "outcome.pickle", "raised.pickle"

MAX_FAILURES = 3


def run_tasks(jobs: Sequence[Training], num_parallel: int, gpu: bool) -> list[Counts]:
    """Run each job as one Ray task, `num_parallel` at a time; a job whose process dies is run again.

    Raises what the first job that fails raises, RunFailed for errors that are not ours.
    """
    remote = ray.remote(num_cpus=1, num_gpus=int(gpu), max_retries=MAX_FAILURES)(_outcome_of)
    share = max(1, num_cores() // num_parallel)
    running: dict[Any, int] = {}
    roots = roots_now()
    counts: dict[int, Counts] = {}
    waiting = list(enumerate(jobs))
    while waiting or running:
        while waiting and len(running) < num_parallel:
            number, job = waiting.pop(0)
            # Ray gives a one-CPU task one thread; a training alone on the machine may have them all.
            name = f"train {job.name}" if job.steps else job.name  # on Ray's dashboard, and in the process's title
            running[remote.options(name=name).remote(job, job.threads or share, roots)] = number
        done, _ = ray.wait(list(running), num_returns=1)
        number = running.pop(done[0])
        with errors_in_one_line(jobs[number].name):
            outcome = ray.get(done[0])
        if isinstance(outcome, Raised):
            raise unpacked(jobs[number].name, outcome)
        fetched(jobs[number].out)  # of a run on a store, what another machine has made
        counts[number] = outcome
    return [counts[number] for number in range(len(jobs))]


def _outcome_of(job: Training, threads: int, roots: Roots) -> Counts | Raised:
    """In the worker: the counts of a training, or what it raised."""
    try:
        return train_in_worker(job.call, job.out, threads, roots)
    except Exception as error:  # noqa: BLE001 - raised by the driver
        return packed(error)


def train_in_worker(call: Call, out: Path, threads: int, roots: Roots) -> Counts:
    """In a worker: go on with what `out` has, by whichever node, and leave all that is made on the run's store."""
    see(roots)
    fetched(out)
    counts = run_call(call, threads)
    files = (file.relative_to(out) for file in out.rglob("*") if file.is_file())
    publish_rest(out, [str(name) for name in files if not any(part.startswith(".") for part in name.parts)])
    return counts
