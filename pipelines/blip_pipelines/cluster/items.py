"""Does the items of a step (shards, blocks of pictures) in this process or on workers of Ray's: `run_items`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from blip_bootstrap.progress import Progress
from blip_pipelines.cluster.tally import Tally, shown

Item = TypeVar("Item")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Pool:
    """The workers of a step: this process (`num_workers` 0), or that many of Ray's, with `cpus` and `gpus` each.

    A worker loads its models once, and does one item after another.
    """

    num_workers: int = 0
    cpus: float = 1.0
    gpus: float = 0.0


HERE = Pool()

RETRIES = "retries"
"""What the times are counted as that work was done again after a process had died of it."""


Work = Callable[..., Callable[[Item], Iterable[Result]]]
"""Makes a worker: called once with `tally=`, it returns the function that does an item and yields its results."""


def run_items(
    step: str,
    items: Sequence[Item],
    work: Work[Item, Result],
    pool: Pool,
    take: Callable[[Result], None],
    progress: Progress,
    before: dict[str, int],
    carefully: Work[Item, Result] | None = None,
) -> int:
    """Have the workers of `pool` do the items; `take` is called in this process with each result as it comes.

    `progress` shows what the workers count, plus `before`, the counts of an earlier run. On Ray, items and results are
    pickled, and a worker that dies is replaced and its item done again, after the second death by `carefully`, which
    is made as `work` is. Returns how often work was done again because a process had died of it. Raises what the first
    failing item raised: a BlipBootstrapError unchanged, any other as RunFailed that names `step`; RunFailed also where
    workers die of an item again and again.
    """
    if pool == HERE:
        tally = Tally()
        with shown(progress, tally, before):
            do = work(tally=tally)
            for item in items:
                for result in do(item):
                    take(result)
            return tally.total().get(RETRIES, 0)
    from blip_pipelines.cluster.ray_items import run_on_ray  # ray takes two seconds to import

    return run_on_ray(step, items, work, pool, take, progress, before, carefully)
