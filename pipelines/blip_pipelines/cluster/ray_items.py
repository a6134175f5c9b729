"""Does the items of a step on workers of Ray's, by Ray Data; imported only where Ray is used."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import Any, TypeVar

import pyarrow as pa
import ray

from blip_bootstrap.progress import Progress
from blip_pipelines.cluster.errors import Raised, errors_in_one_line, packed, unpacked
from blip_pipelines.cluster.items import Pool, Work
from blip_pipelines.cluster.ray_session import quiet_data
from blip_pipelines.cluster.ray_tally import start_tally
from blip_pipelines.cluster.sees_root import Roots, roots_now, see
from blip_pipelines.cluster.tally import Counts, shown

Item = TypeVar("Item")

Result = TypeVar("Result")


def run_on_ray(
    step: str,
    items: Sequence[Item],
    work: Work[Item, Result],
    pool: Pool,
    take: Callable[[Result], None],
    progress: Progress,
    before: dict[str, int],
) -> None:
    """Do the items on workers of Ray's, as `items.run_items` says; this process must be connected already."""
    quiet_data()
    tally = start_tally()
    # One block an item: Ray Data would join small ones, and a single worker would do them all.
    blocks = ray.data.from_items([{"item": pickle.dumps(item)} for item in items], override_num_blocks=len(items))
    map_batches: Any = blocks.map_batches
    settings: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    known: dict[str, Any] = {"work": work, "tally": tally, "roots": roots_now()}
    if pool.kept:
        # Ray puts the class in the process's title: named after the work, `ps` shows what the process does.
        made_of: Any = getattr(work, "func", work)
        settings |= {"num_cpus": pool.cpus, "num_gpus": pool.gpus, "fn_constructor_kwargs": known}
        done = map_batches(
            type(made_of.__name__, (Worker,), {}), compute=ray.data.ActorPoolStrategy(size=pool.num_workers), **settings
        )
    else:
        settings |= {"fn_kwargs": known, "compute": ray.data.TaskPoolStrategy(size=pool.num_workers)}
        done = map_batches(do_once, **settings)
    with errors_in_one_line(step), shown(progress, tally, before), closing(_outcomes(done)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, Raised):
                raise unpacked(step, outcome)
            take(outcome)


def _outcomes(done: Any) -> Generator[Any, None, None]:
    for row in done.iter_rows():
        yield pickle.loads(row["outcome"])


class Worker:
    """Runs in a process of Ray's: does items, and returns their results, or what it raised, as data."""

    def __init__(self, work: Work[Any, Any], tally: Counts, roots: Roots | None = None) -> None:
        self._work, self._tally, self._roots = work, tally, roots or Roots()
        self._do: Callable[[Any], Iterable[Any]] | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One pickled item (column `item`) to its pickled outcomes (column `outcome`)."""
        outcomes: list[Any] = []
        try:
            # Made here: an error in an actor's constructor is retried for ever.
            if self._do is None:
                see(self._roots)
                self._do = self._work(tally=self._tally)
            for item in batch["item"].to_pylist():
                outcomes += self._do(pickle.loads(item))
        except Exception as error:  # noqa: BLE001 - raised by the driver
            outcomes.append(packed(error))
        return pa.table({"outcome": pa.array([pickle.dumps(outcome) for outcome in outcomes], pa.binary())})


def do_once(batch: pa.Table, work: Work[Any, Any], tally: Counts, roots: Roots | None = None) -> pa.Table:
    """Do one item with a new Worker; the function of a Ray task."""
    return Worker(work, tally, roots)(batch)
