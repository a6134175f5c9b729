"""Counts of work under way, collected from Ray workers and shown as progress."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from blip_bootstrap.progress import Progress

POLL_S = 0.5


class Tally:
    """Latest counts of each unit of work; a unit that is done again after a lost worker replaces its counts."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}

    def put(self, unit: str, counts: dict[str, int]) -> None:
        """`unit` has come so far."""
        self._counts[unit] = counts

    def total(self) -> dict[str, int]:
        """The sum over all units."""
        total: Counter[str] = Counter()
        for counts in self._counts.values():
            total.update(counts)
        return dict(total)

    def forget(self) -> None:
        """Begin anew."""
        self._counts.clear()


class Tallies:
    """The tallies of steps, by name. One Ray actor holds those of a driver: each actor is a process that starts."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}

    def put(self, name: str, unit: str, counts: dict[str, int]) -> None:
        """In the tally `name`, `unit` has come so far."""
        self._tallies.setdefault(name, Tally()).put(unit, counts)

    def total(self, name: str) -> dict[str, int]:
        """The sum over all units of one tally."""
        return self._tallies.setdefault(name, Tally()).total()

    def forget(self, name: str) -> None:
        """Drop one tally."""
        self._tallies.pop(name, None)


class RemoteTally:
    """One of the Tallies of a Ray actor, as its users see it."""

    def __init__(self, actor: Any, name: str) -> None:
        self._actor, self._name = actor, name

    def put(self, unit: str, counts: dict[str, int]) -> None:
        """As Tally's; does not wait."""
        self._actor.put.remote(self._name, unit, counts)

    def total(self) -> dict[str, int]:
        """As Tally's."""
        import ray

        found: dict[str, int] = ray.get(self._actor.total.remote(self._name))
        return found

    def forget(self) -> None:
        """As Tally's; does not wait."""
        self._actor.forget.remote(self._name)


def start_tally() -> RemoteTally:
    """A new Tally, in the driver's Ray actor for them."""
    import ray

    context = ray.get_runtime_context()
    return RemoteTally(_actor(context.get_node_id(), context.get_job_id()), uuid.uuid4().hex)


@lru_cache(maxsize=1)
def _actor(node: str, job: str) -> Any:
    """The actor of this driver (`job` on `node`); it needs no CPU, so it cannot keep workers waiting.

    It stands on the driver's own node: were it lost with another node, the run would be.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Tallies).options(num_cpus=0, scheduling_strategy=here).remote()


@contextmanager
def shown(progress: Progress, tally: Tally | RemoteTally, before: dict[str, int]) -> Iterator[None]:
    """Show the tally's sum plus `before` (what an earlier run had done) in `progress` while the body runs.

    A count named like the progress's unit moves the bar; the others are shown beside it.
    """
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(POLL_S):
            _show(progress, tally, before)

    thread = threading.Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield
        stop.set()
        thread.join()
        _show(progress, tally, before)
        tally.forget()
    finally:
        stop.set()
        thread.join()


def _show(progress: Progress, tally: Tally | RemoteTally, before: dict[str, int]) -> None:
    counts = Counter(before)
    counts.update(tally.total())
    done = counts.pop(progress.unit, 0)
    progress.update(done, **{name.replace("_", " "): count for name, count in sorted(counts.items()) if count})
