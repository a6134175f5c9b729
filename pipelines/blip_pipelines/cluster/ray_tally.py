"""Counts of work under way on a Ray cluster: an actor that workers on any machine report to.

Imported only where Ray is used.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from blip_bootstrap.progress import never_failing
from blip_pipelines.cluster.tally import Tally

TOTAL_TIMEOUT_S = 10.0
"""How long the driver waits for the actor: one that hangs must not keep a step that is done from ending."""


SETTLED_S = 1.0
"""How long a worker that has done an item waits until its counts are with the actor."""


class Tallies:
    """The tallies of all steps of a driver, by name, in one Ray actor: each actor is a process that must start."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}

    def put(self, name: str, unit: str, counts: dict[str, int]) -> None:
        """Replace the counts of `unit` in the tally `name`."""
        self._tallies.setdefault(name, Tally()).put(unit, counts)

    def total(self, name: str) -> dict[str, int]:
        """The sum over all units of the tally `name`."""
        return self._tallies.setdefault(name, Tally()).total()

    def add_up(self, name: str, units: list[str]) -> None:
        """Units of the tally `name` that are done."""
        self._tallies.setdefault(name, Tally()).add_up(units)

    def forget(self, name: str) -> None:
        """Drop the tally `name`."""
        self._tallies.pop(name, None)


class RemoteTally:
    """One tally in the actor; workers and driver use it like a Tally. The actor's death fails no worker."""

    def __init__(self, actor: Any, name: str) -> None:
        self._actor, self._name = actor, name

    def put(self, unit: str, counts: dict[str, int]) -> None:
        """Replace the counts of `unit`; does not wait for the actor."""
        with never_failing():
            self._actor.put.remote(self._name, unit, counts)

    def total(self) -> dict[str, int]:
        """The sum over all units; waits for the actor. Raises Ray's error where it is dead or does not answer."""
        try:
            found: dict[str, int] = ray.get(self._actor.total.remote(self._name), timeout=TOTAL_TIMEOUT_S)
        except ray.exceptions.RayError:
            _actor.cache_clear()  # the next step has an actor that lives
            raise
        return found

    def add_up(self, units: Iterable[str]) -> None:
        """These units are done; waits a moment for the actor, so that what is done was counted before."""
        with never_failing():
            ray.wait([self._actor.add_up.remote(self._name, list(units))], timeout=SETTLED_S)

    def forget(self) -> None:
        """Drop all counts; does not wait for the actor."""
        self._actor.forget.remote(self._name)


def start_tally() -> RemoteTally:
    """A new, empty tally in the actor that holds this driver's tallies."""
    context = ray.get_runtime_context()
    return RemoteTally(_actor(context.get_node_id(), context.get_job_id()), uuid.uuid4().hex)


@lru_cache(maxsize=1)
def _actor(node: str, job: str) -> Any:
    """The actor that holds the tallies of this driver (`job` on `node`); it asks for no CPU that workers could use.

    It runs on the driver's own node, since the loss of another node must not end the run.
    """
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Tallies).options(num_cpus=0, scheduling_strategy=here).remote()
