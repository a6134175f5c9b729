"""Tallies that workers on any machine of a Ray cluster report to; imported only where Ray is used."""

from __future__ import annotations

import uuid
from functools import lru_cache
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from blip_pipelines.cluster.tally import Tally


class Tallies:
    """The tallies of steps, by name. One Ray actor holds those of a driver: each actor is a process that starts."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}

    def put(self, name: str, unit: str, counts: dict[str, int]) -> None:
        """Replace the counts of `unit` in the tally `name`."""
        self._tallies.setdefault(name, Tally()).put(unit, counts)

    def total(self, name: str) -> dict[str, int]:
        """The sum over all units of the tally `name`."""
        return self._tallies.setdefault(name, Tally()).total()

    def forget(self, name: str) -> None:
        """Drop the tally `name`."""
        self._tallies.pop(name, None)


class RemoteTally:
    """One tally of the actor's, which workers and driver use like a Tally."""

    def __init__(self, actor: Any, name: str) -> None:
        self._actor, self._name = actor, name

    def put(self, unit: str, counts: dict[str, int]) -> None:
        """Replace the counts of `unit`; does not wait for the actor."""
        self._actor.put.remote(self._name, unit, counts)

    def total(self) -> dict[str, int]:
        """The sum over all units; waits for the actor."""
        found: dict[str, int] = ray.get(self._actor.total.remote(self._name))
        return found

    def forget(self) -> None:
        """Drop all counts; does not wait for the actor."""
        self._actor.forget.remote(self._name)


def start_tally() -> RemoteTally:
    """An empty tally in the driver's actor for tallies."""
    context = ray.get_runtime_context()
    return RemoteTally(_actor(context.get_node_id(), context.get_job_id()), uuid.uuid4().hex)


@lru_cache(maxsize=1)
def _actor(node: str, job: str) -> Any:
    """The actor of this driver (`job` on `node`); it needs no CPU, so it cannot keep workers waiting.

    It stands on the driver's own node: were it lost with another node, the run would be.
    """
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Tallies).options(num_cpus=0, scheduling_strategy=here).remote()
