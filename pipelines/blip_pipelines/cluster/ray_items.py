"""Does the items of a step on actors of Ray's; imported only where Ray is used.

Not by Ray Data: its map operators try a task whose worker dies again without end (`max_retries`, `max_restarts` and
`max_task_retries` are -1 in Ray 2.60, and `max_errored_blocks` counts exceptions alone), so that one picture that
crashes a library would loop without a word. Items write their own files, and need nothing of a dataset.
"""

from __future__ import annotations

import os
import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import ray

from blip_bootstrap.errors import RunFailed
from blip_bootstrap.progress import Progress, tell
from blip_pipelines.cluster.errors import Raised, errors_in_one_line, first_line, packed, unpacked
from blip_pipelines.cluster.items import RETRIES, Pool, Work
from blip_pipelines.cluster.ray_tally import start_tally
from blip_pipelines.cluster.sees_root import Roots, roots_now, see
from blip_pipelines.cluster.tally import Counts, shown

Item = TypeVar("Item")

Result = TypeVar("Result")

PLAIN_TRIES = 2
"""Workers may die of an item so often before it is done carefully: one death may be a lost machine."""

MAX_TRIES = 8
"""Workers may die of an item, or before their first one, so often in all before the step gives up."""


def run_on_ray(
    step: str,
    items: Sequence[Item],
    work: Work[Item, Result],
    pool: Pool,
    take: Callable[[Result], None],
    progress: Progress,
    before: dict[str, int],
    carefully: Work[Item, Result] | None = None,
) -> int:
    """Do the items on workers of Ray's, as `items.run_items` says; this process must be connected already."""
    tally, counts = start_tally(), dict(before)
    crew = Crew(step, work, carefully or work, pool, tally, counts)
    with errors_in_one_line(step), shown(progress, tally, counts), closing(crew.outcomes(items)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, Raised):
                raise unpacked(step, outcome)
            take(outcome)
    return crew.num_retries + crew.num_retries_in_workers


@dataclass
class Try:
    """An item, pickled, and how many workers have died of it."""

    item: bytes
    num_deaths: int = 0


class Crew:
    """The workers of a step: each has an item at a time; one that dies is replaced, and its item done again.

    No item is tried without end. After PLAIN_TRIES deaths it is done by the work `carefully`, which survives what an
    item does; after MAX_TRIES the step fails. `counts` is shown beside what workers count, and gets the retries.
    """

    def __init__(
        self,
        step: str,
        work: Work[Any, Any],
        carefully: Work[Any, Any],
        pool: Pool,
        tally: Counts,
        counts: dict[str, int],
    ) -> None:
        # Ray puts the class in the process's title: named after the work, `ps` shows what the process does.
        made_of: Any = getattr(work, "func", work)
        kind: Any = ray.remote(type(made_of.__name__, (Worker,), {}))
        self._kind, self._settings = kind.options(**options_of(pool)), (work, carefully, tally, roots_now())
        self._step, self._pool, self._counts = step, pool, counts
        self._running: dict[Any, tuple[Any, Try | None]] = {}
        self._idle: list[Any] = []
        self._num_lost = 0
        self.num_retries, self.num_retries_in_workers = 0, 0

    def outcomes(self, items: Sequence[Any]) -> Generator[Any, None, None]:
        """What workers make of the items, as it comes: results, or a Raised. Raises RunFailed after too many deaths."""
        fresh, again, num_left = map(_pickled, items), deque[Try](), len(items)
        try:
            for _ in range(min(self._pool.num_workers, num_left)):
                self._start()
            while num_left:
                self._hand_out(fresh, again)
                (ready,), _ = ray.wait(list(self._running), num_returns=1)
                worker, tried = self._running.pop(ready)
                try:
                    outcomes, retries = pickle.loads(ray.get(ready))
                except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
                    self._died(worker, tried, error)
                    if tried:
                        again.append(tried)
                    continue
                self._idle.append(worker)
                self._num_lost = 0
                num_left -= bool(tried)
                self.num_retries_in_workers += retries
                yield from outcomes
        finally:
            for worker in [*self._idle, *(worker for worker, _ in self._running.values())]:
                _kill(worker)

    def _start(self) -> None:
        """Start a worker; it gets an item once it is there, which on a cluster that lost a machine may be never."""
        worker = self._kind.remote(*self._settings)
        self._running[worker.begin.remote()] = worker, None

    def _hand_out(self, fresh: Iterator[Try], again: deque[Try]) -> None:
        """Give idle workers their next items: new ones first, so that what may kill workers comes last."""
        while self._idle and (tried := next(fresh, None) or (again.popleft() if again else None)):
            worker = self._idle.pop()
            self._running[worker.do.remote(tried.item, tried.num_deaths >= PLAIN_TRIES)] = worker, tried

    def _died(self, worker: Any, tried: Try | None, error: Exception) -> None:
        """Replace a worker that died. Raises RunFailed where too many did."""
        _kill(worker)
        if tried:
            tried.num_deaths += 1
            self.num_retries += 1
            self._counts[RETRIES] = self.num_retries
        else:
            self._num_lost += 1
        num_deaths = tried.num_deaths if tried else self._num_lost
        why = _why(error)
        if num_deaths >= MAX_TRIES:
            what = "of the same work" if tried else "before their first work"
            raise RunFailed(f"{self._step}: {num_deaths} workers died {what}, the last so: {why}; run again to go on")
        carefully = ", row by row where needed" if tried and num_deaths >= PLAIN_TRIES else ""
        tell(f"  {self._step}  a worker died ({why}); another one goes on{carefully}")
        self._start()


def options_of(pool: Pool) -> dict[str, Any]:
    """What a worker asks of Ray."""
    asked: dict[str, Any] = {"num_cpus": pool.cpus, "num_gpus": pool.gpus, "scheduling_strategy": "SPREAD"}
    return asked | {"max_restarts": 0, "max_task_retries": 0}


def _pickled(item: Any) -> Try:
    return Try(pickle.dumps(item))


def _kill(worker: Any) -> None:
    with suppress(ray.exceptions.RayError, ValueError):
        ray.kill(worker)


def _why(error: Exception) -> str:
    """Why a worker died, as far as Ray knows, in a few words."""
    said = str(error)
    if "node" in said and ("died" in said or "dead" in said) and "worker process has died" not in said:
        return "its machine was lost"
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "memory on the node" in said:
        return "its machine ran out of memory"
    if "worker process has died" in said:
        return "its process crashed or was killed"
    return first_line(error)


class Noting:
    """A tally in a worker that keeps count of retries beside: a driver counts them also where no tally answers."""

    def __init__(self, tally: Counts) -> None:
        self._tally, self._retries = tally, dict[str, int]()

    def put(self, unit: str, counts: dict[str, int]) -> None:
        """Replace the counts of `unit`."""
        self._retries[unit] = counts.get(RETRIES, 0)
        self._tally.put(unit, counts)

    def total(self) -> dict[str, int]:
        """The sum over all units."""
        return self._tally.total()

    def forget(self) -> None:
        """Drop all counts."""
        self._tally.forget()

    def retries(self) -> int:
        """Those of all units since this was last asked."""
        found = sum(self._retries.values())
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
        """Answers once this process is there: no outcomes, no retries."""
        return pickle.dumps(([], 0))

    def do(self, item: bytes, carefully: bool) -> bytes:
        """The pickled outcomes of one pickled item, and the retries that it took in this worker."""
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
        return pickle.dumps((outcomes, self._tally.retries()))
