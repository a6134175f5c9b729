"""Does the items of a step (shards, blocks of pictures) in this process or on workers of Ray's: `run_items`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from blip_bootstrap.config import RayConfig
from blip_bootstrap.progress import Progress
from blip_pipelines.cluster.tally import Tally, shown

Item = TypeVar("Item")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Pool:
    """The workers of a step: this process (`num_workers` 0), or that many of Ray's, with `cpus` and `gpus` each.

    A worker loads its models once, and does one item after another. `memory_bytes` is what one is taken to need until
    the first has done an item, or with `memory_is_set` what is asked for each, whatever they take.
    """

    num_workers: int = 0
    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int = 1_000_000_000
    memory_is_set: bool = False

    def with_memory(self, config: RayConfig, assumed_bytes: int) -> Pool:
        """The same workers, that need so much memory, or what `ray.worker_memory_bytes` says."""
        asked = config.worker_memory_bytes
        return replace(self, memory_bytes=asked or assumed_bytes, memory_is_set=bool(asked))


HERE = Pool()

RETRIES = "retries"
"""What the times are counted as that work was done again after a process had died of it."""


Work = Callable[..., Callable[[Item], Iterable[Result]]]
"""Makes a worker: called once with `tally=`, it returns the function that does an item and yields its results."""


def run_items(
    step: str,
    items: Iterable[Item],
    work: Work[Item, Result],
    pool: Pool,
    take: Callable[[Result], None],
    progress: Progress,
    before: dict[str, int],
    carefully: Work[Item, Result] | None = None,
) -> int:
    """Have the workers of `pool` do the items; `take` is called in this process with each result as it comes.

    Items are taken as workers are free, so that a generator of many is never a list.
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
                tally.all_done()
            return tally.total().get(RETRIES, 0)
    from blip_pipelines.cluster.ray_items import run_on_ray  # ray takes two seconds to import

    return run_on_ray(step, items, work, pool, take, progress, before, carefully)
