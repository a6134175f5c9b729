"""The captioning step: every image captioned, every text scored, one file of captions for each file of images."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.config import CaptionConfig, RayConfig
from blip_bootstrap.errors import AccountingError, InputError
from blip_bootstrap.progress import Progress
from blip_bootstrap.storage.parquet import open_parquet, parquet_files, read_parquet
from blip_pipelines.caption.blocks import BLOCK_ROWS, Block, CaptionBlocks, Merger, num_threads
from blip_pipelines.caption.models import absolute, with_absolute_models
from blip_pipelines.cluster.errors import errors_in_one_line
from blip_pipelines.cluster.resources import NO_RAY, check_cpus, num_workers, takes_gpu, works_here
from blip_pipelines.cluster.session import connect, quiet_data
from blip_pipelines.cluster.tally import Tally, shown, start_tally

BLOCKS = ".blocks"

BLOCKS_PER_TASK = 8
"""The most blocks that an actor with a GPU takes one after the other. Each is written when it is done."""


def caption_and_score(
    out: Path, images: Path, captioner: Path | str, filter: Path | str, config: CaptionConfig, ray: RayConfig
) -> dict[str, int | float | str]:
    """Caption the images and score web and synthetic texts with Ray actors (section 3.3).

    `images` is a folder of the table `images`; `captioner` and `filter` are what `load_med` reads. Writes
    `out/part-NNNNN.parquet` (table `captions`) for each file of images; files and blocks that are in `out` are kept.
    Returns the number of images, of rows by source, of images that could not be decoded, and of flags.
    Raises CheckpointError for a model that cannot be used, RunFailed where Ray has too few CPUs, AccountingError
    where an image got lost.
    """
    parts = parquet_files(images)
    if not parts:
        raise InputError(f"{images}: no part-*.parquet in it; run the download first")
    todo = {part.name: _blocks(part, out) for part in parts if not (out / part.name).exists()}
    blocks = [block for of_part in todo.values() for block in of_part if not block.made]
    successes = {part.name: _num_successes(part) for part in parts}
    with Progress("caption", sum(successes.values()), unit="images") as progress:
        done = _count([*(out / p.name for p in parts), *(Path(b.output) for of in todo.values() for b in of)])
        progress.begin(done["images"])
        merge = Merger(out, todo)
        if blocks:
            _run(blocks, merge, absolute(captioner), absolute(filter), config, ray, progress, done)
    shutil.rmtree(out / BLOCKS, ignore_errors=True)
    return _check(out, successes)


def _blocks(part: Path, out: Path) -> list[Block]:
    with open_parquet(part) as file:
        num_rows = file.metadata.num_rows
    out = out.absolute()
    firsts = range(0, max(num_rows, 1), BLOCK_ROWS)  # an empty file of images has an empty file of captions
    names = {first: out / BLOCKS / f"{part.stem}-{first:06d}.parquet" for first in firsts}
    return [Block(str(part.absolute()), first, str(name), str(out / part.name)) for first, name in names.items()]


def _run(
    blocks: list[Block],
    merge: Merger,
    captioner: str,
    filter: str,
    config: CaptionConfig,
    ray_config: RayConfig,
    progress: Progress,
    before: Mapping[str, int],
) -> None:
    """Give the blocks to a pool of actors and merge each file of images as soon as its last block is done."""
    if works_here(ray_config, len(blocks)):
        _run_here(blocks, merge, captioner, filter, config, progress, before)
        return
    connect(ray_config)
    import ray

    quiet_data()
    gpus = gpus_of_actor(config)
    num_actors = num_workers(ray_config, config.num_actors, config.cpus_per_actor, gpus, at_most=len(blocks))
    check_cpus(num_actors * config.cpus_per_actor, "captioning")
    actors_config, tally = with_absolute_models(config), start_tally()
    with errors_in_one_line("caption"), shown(progress, tally, dict(before)):
        size = blocks_per_task(len(blocks), num_actors, gpus)
        tasks = [blocks[first : first + size] for first in range(0, len(blocks), size)]
        items = [{"blocks": [asdict(block) for block in task]} for task in tasks]
        captioned = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            CaptionBlocks,
            fn_constructor_kwargs={
                "captioner": captioner,
                "filter": filter,
                "config": actors_config,
                "tally": tally,
                "num_lanes": idle_lanes(config, ray_config, num_actors),
            },
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=num_actors),
            num_cpus=config.cpus_per_actor,
            num_gpus=gpus,
        )
        for row in captioned.iter_rows():
            for block in row["blocks"]:
                merge.when_whole(Path(block["part"]).name)


def _run_here(
    blocks: list[Block], merge: Merger, captioner: str, filter: str, config: CaptionConfig, progress: Progress,
    before: Mapping[str, int],
) -> None:  # fmt: skip
    """The same without Ray: in the process that waits for it, where there is one, else in this."""
    tally = Tally()
    worker = CaptionBlocks(captioner, filter, config, tally, idle_lanes(config, RayConfig(address=NO_RAY), 1))
    with shown(progress, tally, dict(before)):
        for block in worker.caption(blocks):
            merge.when_whole(Path(block.part).name)


def blocks_per_task(num_blocks: int, num_actors: int, gpus: float) -> int:
    """How many blocks an actor gets at a time: one on a CPU, with a GPU a quarter of its share at most.

    The models wait for pictures once in them, for those of the first batch: on an H200 a sixth of a block's time.
    """
    return min(BLOCKS_PER_TASK, max(1, num_blocks // (4 * num_actors))) if gpus else 1


def gpus_of_actor(config: CaptionConfig) -> float:
    """How much of a GPU an actor takes of the connected cluster."""
    return (config.gpus_per_actor or 1.0) if takes_gpu(config.device) else 0.0


def idle_lanes(config: CaptionConfig, ray: RayConfig, num_actors: int) -> int:
    """How many parts of its batch an actor may compute at a time, where the cores are this run's own.

    A few images make one block, for one actor: the other cores would be idle. On a cluster other jobs may want them.
    """
    if ray.address not in (NO_RAY, "local"):
        return 1
    return max(1, (os.cpu_count() or 1) // (num_actors * num_threads(config)))


def _count(files: Iterable[Path]) -> Counter[str]:
    """Rows of those files that exist, by counter."""
    counts: Counter[str] = Counter()
    for file in files:
        if file.exists():
            table = read_parquet(file, ["source", "itm_score", "flags"])
            counts.update(_values(table["source"]) + _values(pc.list_flatten(table["flags"])))
            counts["not_scored"] += table["itm_score"].null_count
    counts["images"] = counts["web"]
    return +counts


def _values(column: pa.ChunkedArray) -> Counter[str]:
    return Counter({entry["values"]: entry["counts"] for entry in column.value_counts().to_pylist()})


def _num_successes(part: Path) -> int:
    return int(pc.sum(pc.equal(read_parquet(part, ["status"])["status"], "success")).as_py() or 0)


def _check(out: Path, successes: Mapping[str, int]) -> dict[str, int | float | str]:
    """The counts of all captions. Raises AccountingError where a file lacks an image."""
    totals: Counter[str] = Counter()
    for name, expected in successes.items():
        counts = _count([out / name])
        if (found := counts["images"]) != expected:
            raise AccountingError(f"{out / name}: {found} images for {expected} downloaded; delete it and run again")
        totals += counts
    return dict(totals)
