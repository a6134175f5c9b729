"""What a sample costs on the workers of a cluster: tasks and actors that are started together and asked at once.

Importing this module imports Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray.data  # in a worker that measures its memory it counts, as in one that fetches


def empty_job_s() -> float:
    """Seconds of a job of Ray Data that has nothing to do; the first one of a driver starts Ray Data's own actors."""
    started = time.perf_counter()
    ray.data.from_items([{"row": 0}]).map_batches(_unchanged, batch_format="pyarrow").take_all()
    return time.perf_counter() - started


def _unchanged(batch: pa.Table) -> pa.Table:
    return batch


def run_together(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """What `function` returns for each tuple of arguments, all calls at once, each a task with one CPU."""
    remote = ray.remote(num_cpus=1)(function)
    found: list[Any] = ray.get([remote.remote(*arguments) for arguments in calls])
    return found


@contextmanager
def started_actors(
    kind: type, arguments: tuple[Any, ...], number: int, num_cpus: float, num_gpus: float
) -> Iterator[Callable[..., list[Any]]]:
    """Start `number` equal actors, and end them after the body; yields how to ask them.

    What is yielded takes a method's name and its arguments, calls it on all actors at once, and returns the answers.
    """
    remote: Any = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus)(kind)
    actors = [remote.remote(*arguments) for _ in range(number)]

    def ask(method: str, *given: Any) -> list[Any]:
        stored = [ray.put(one) for one in given]  # once for all actors
        answers: list[Any] = ray.get([getattr(actor, method).remote(*stored) for actor in actors])
        return answers

    try:
        yield ask
    finally:
        for actor in actors:
            ray.kill(actor)
