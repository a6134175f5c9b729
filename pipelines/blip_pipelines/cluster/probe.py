"""Runs a sample on the workers of a cluster for `plan`: tasks and actors that all start at once.

Importing this module imports Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from blip_pipelines.cluster.crew import options_of
from blip_pipelines.cluster.items import Pool
from blip_pipelines.cluster.ray_items import Worker


def empty_job_s() -> float:
    """Seconds that a step takes on Ray beside its work: one worker starts, and answers."""
    started = time.perf_counter()
    kind: Any = ray.remote(Worker)
    worker = kind.options(**options_of(Pool(1))).remote(None, None, None)
    ray.get(worker.begin.remote())
    ray.kill(worker)
    return time.perf_counter() - started


def run_together(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call `function` with each tuple of arguments at the same time, a task of one CPU each; returns all results."""
    remote = ray.remote(num_cpus=1)(function)
    found: list[Any] = ray.get([remote.remote(*arguments) for arguments in calls])
    return found


@contextmanager
def started_actors(
    kind: type, arguments: tuple[Any, ...], number: int, num_cpus: float, num_gpus: float
) -> Iterator[Callable[..., list[Any]]]:
    """Start `number` actors `kind(*arguments)`, and end them after the body; yields a function that calls them.

    The function takes a method's name and arguments, calls it on all actors at the same time, and returns the results.
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
