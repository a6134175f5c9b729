"""Does the items of a step on actors of Ray's; imported only where Ray is used.

Not by Ray Data: its map operators try a task whose worker dies again without end (`max_retries`, `max_restarts` and
`max_task_retries` are -1 in Ray 2.60, and `max_errored_blocks` counts exceptions alone), so that one picture that
crashes a library would loop without a word. Items write their own files, and need nothing of a dataset.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any, TypeVar

import ray

from blip_bootstrap.machine import memory_bytes
from blip_bootstrap.progress import Progress
from blip_pipelines.cluster.crew import Crew, Told
from blip_pipelines.cluster.items import RETRIES, Pool, Work
from blip_pipelines.cluster.ray_tally import start_tally
from blip_pipelines.cluster.sees_root import Roots, roots_now, see
from blip_pipelines.cluster.tally import Counts, shown
from blip_pipelines.failures.errors import Raised, errors_in_one_line, packed, unpacked
from blip_pipelines.failures.limits import peak_held_bytes

TELL_S = 5.0
"""A worker tells of its counts so often at most: one actor hears of all, some 1,000 times a second."""

Item = TypeVar("Item")

Result = TypeVar("Result")


def run_on_ray(
    step: str,
    items: Iterable[Item],
    work: Work[Item, Result],
    pool: Pool,
    take: Callable[[Result], None],
    progress: Progress,
    before: dict[str, int],
    carefully: Work[Item, Result] | None = None,
) -> int:
    """Do the items on workers of Ray's, as `items.run_items` says; this process must be connected already."""
    tally, counts = start_tally(), dict(before)
    # The class is what Ray shows of an actor: on its dashboard, and in the process's title, `ray::caption.do`.
    kind: Any = ray.remote(type(step.replace(" ", "_"), (Worker,), {}))
    crew = Crew(step, kind, (work, carefully or work, tally, roots_now()), pool, counts)
    with errors_in_one_line(step), shown(progress, tally, counts), closing(crew.outcomes(items)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, Raised):
                raise unpacked(step, outcome)
            take(outcome)
    return crew.num_retries + crew.num_retries_in_workers


class Noting:
    """A tally in a worker that keeps count of retries beside: a driver counts them also where no tally answers.

    It passes on what it is told every TELL_S alone, and when an item is done.
    """

    def __init__(self, tally: Counts) -> None:
        self._tally, self._retries = tally, dict[str, int]()
        self._latest: dict[str, dict[str, int]] = {}
        self._told_at = -TELL_S

    def put(self, unit: str, counts: dict[str, int]) -> None:
        """Replace the counts of `unit`."""
        self._retries[unit] = counts.get(RETRIES, 0)
        self._latest[unit] = counts
        if time.monotonic() - self._told_at >= TELL_S:
            self._pass_on()

    def _pass_on(self) -> None:
        for unit, counts in self._latest.items():
            self._tally.put(unit, counts)
        self._latest.clear()
        self._told_at = time.monotonic()

    def total(self) -> dict[str, int]:
        """The sum over all units."""
        self._pass_on()
        return self._tally.total()

    def add_up(self, units: Iterable[str]) -> None:
        """These units are done: their counts are kept as a sum alone."""
        self._pass_on()
        self._tally.add_up(units)

    def forget(self) -> None:
        """Drop all counts."""
        self._latest.clear()
        self._tally.forget()

    def item_is_done(self) -> int:
        """The retries of all units since this was last asked; the units themselves need no longer be known."""
        found = sum(self._retries.values())
        if self._retries:
            self.add_up(list(self._retries))
        self._retries.clear()
        return found


class Worker:
    """Runs in a process of Ray's: does items, and returns their results, or what it raised, as data."""

    def __init__(
        self, work: Work[Any, Any], carefully: Work[Any, Any], tally: Counts, roots: Roots | None = None
    ) -> None:
        self._works, self._tally, self._roots = (work, carefully), Noting(tally), roots or Roots()
        self._made: dict[bool, Callable[[Any], Iterable[Any]]] = {}

    def begin(self) -> bytes:
        """Answers once this process is there, with what is told of it."""
        return self._told([])

    def do(self, item: bytes, carefully: bool) -> bytes:
        """A pickled Told with the outcomes of one pickled item."""
        outcomes: list[Any] = []
        try:
            if not self._made:
                see(self._roots)
            if carefully not in self._made:
                self._made = {carefully: self._works[carefully](tally=self._tally)}
            outcomes += self._made[carefully](pickle.loads(item))
        except MemoryError:
            os._exit(1)  # a death like any other: what is left of the process may be short of memory, too
        except Exception as error:  # noqa: BLE001 - raised by the driver
            outcomes.append(packed(error))
        return self._told(outcomes)

    def _told(self, outcomes: list[Any]) -> bytes:
        node = ray.get_runtime_context().get_node_id()
        return pickle.dumps(Told(outcomes, self._tally.item_is_done(), peak_held_bytes(), node, memory_bytes()))
