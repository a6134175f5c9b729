"""The captioning step: every image captioned, every text scored, one file of captions for each file of images."""

from __future__ import annotations

import os
import shutil
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.config import CaptionConfig, RayConfig
from blip_bootstrap.errors import AccountingError, InputError
from blip_bootstrap.progress import Progress
from blip_bootstrap.tables import CAPTIONS, open_parquet, parquet_files, read_parquet, rows_to_table, write_parquet
from blip_pipelines import caption_process
from blip_pipelines.caption_models import absolute, with_absolute_models
from blip_pipelines.caption_process import CaptionProcess
from blip_pipelines.caption_worker import IMAGE_COLUMNS, CaptionWorker, one_ahead
from blip_pipelines.ray_session import (
    NO_RAY,
    check_cpus,
    connect,
    errors_in_one_line,
    num_workers,
    quiet_data,
    takes_gpu,
    works_here,
)
from blip_pipelines.tally import RemoteTally, Tally, shown, start_tally

BLOCKS = ".blocks"
BLOCK_ROWS = 512
"""Images whose captions are written together, and what a kill costs an actor at most. Not a setting: with other blocks
the batches, and with them the last digits of the scores, would differ between a run and its continuation."""
BLOCKS_PER_TASK = 8
"""The most blocks that an actor with a GPU takes one after the other. Each is written when it is done."""


@dataclass(frozen=True)
class Block:
    """`BLOCK_ROWS` rows of one file of images, from row `first` on, and the files where their captions go.

    `output` is the block's own, `merged` the one that all blocks of the file of images end in.
    """

    part: str
    first: int
    output: str
    merged: str

    @property
    def made(self) -> bool:
        """Whether it was finished, by an earlier run or by a task whose answer was lost with its node."""
        # In this order: the merged file is there before a block of it goes.
        return Path(self.output).exists() or Path(self.merged).exists()


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
        merge = _Merger(out, todo)
        if blocks:
            _run(blocks, merge, absolute(captioner), absolute(filter), config, ray, progress, done)
    caption_process.close()
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
    merge: _Merger,
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
    caption_process.close()
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
    blocks: list[Block], merge: _Merger, captioner: str, filter: str, config: CaptionConfig, progress: Progress,
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


def num_threads(config: CaptionConfig) -> int:
    """Torch's threads in an actor."""
    return max(1, int(config.cpus_per_actor))


def idle_lanes(config: CaptionConfig, ray: RayConfig, num_actors: int) -> int:
    """How many parts of its batch an actor may compute at a time, where the cores are this run's own.

    A few images make one block, for one actor: the other cores would be idle. On a cluster other jobs may want them.
    """
    if ray.address not in (NO_RAY, "local"):
        return 1
    return max(1, (os.cpu_count() or 1) // (num_actors * num_threads(config)))


class CaptionBlocks:
    """A Ray actor: one CaptionWorker that takes blocks, writes their captions, and reports each batch."""

    def __init__(
        self, captioner: str, filter: str, config: CaptionConfig, tally: Tally | RemoteTally, num_lanes: int = 1
    ) -> None:
        self._arguments = captioner, filter, config, num_threads(config), num_lanes
        self._tally = tally

    @cached_property
    def _worker(self) -> CaptionWorker | CaptionProcess:
        """Made at the first block: an error in an actor's constructor is retried for ever and loses its cause."""
        process = caption_process.running()
        return process.load(*self._arguments) if process else CaptionWorker(*self._arguments)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Caption the blocks of `batch` (column `blocks`, of Block's fields) that are not made; returns `batch`.

        Ray runs a finished task again where its answer was on a node that is lost.
        """
        for _ in self.caption(Block(**block) for blocks in batch["blocks"].to_pylist() for block in blocks):
            pass
        return batch

    def caption(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Caption those of the blocks that are not made; yields each once it is."""
        todo = [block for block in blocks if not block.made]
        if todo:
            batches = self._worker.in_blocks(self._images(todo))
            for block in todo:
                self._caption(block, batches)
                yield block

    def _caption(self, block: Block, batches: Iterator[tuple[list[dict[str, Any]], bool]]) -> None:
        """Write the captions of the block whose batches are the next ones."""
        rows: list[dict[str, Any]] = []
        counts: Counter[str] = Counter()
        for done, is_last in batches:
            rows += done
            counts.update(name for row in done for name in _counters(row["source"], row["itm_score"], row["flags"]))
            self._tally.put(block.output, dict(counts))
            if is_last:
                break
        write_parquet(Path(block.output), rows_to_table(rows, CAPTIONS), CAPTIONS, self._worker.metadata)

    def _images(self, blocks: Sequence[Block]) -> Iterator[list[dict[str, Any]]]:
        """The rows of each block's images, read while those of the one before are worked on."""
        with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
            reads = (pool.submit(self._read, block) for block in blocks)
            for read in one_ahead(reads):
                yield read.result()

    def _read(self, block: Block) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = read_rows(Path(block.part), block.first, BLOCK_ROWS).to_pylist()
        return rows


def read_rows(part: Path, first: int, count: int) -> pa.Table:
    """`count` rows of a file of images from row `first` on, the columns that captioning needs; without the others.

    Row groups without any of them are not read: at the end of a file of 10,000 images they were all of it.
    """
    with open_parquet(part) as file:
        ends = list(accumulate(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)))
        groups = range(bisect_right(ends, first), min(bisect_left(ends, first + count) + 1, len(ends)))
        at = ends[groups[0] - 1] if groups and groups[0] else 0
        return file.read_row_groups(list(groups), IMAGE_COLUMNS).slice(first - at, count)


class _Merger:
    """Joins the blocks of a file of images into its file of captions once all are there."""

    def __init__(self, out: Path, blocks: Mapping[str, list[Block]]) -> None:
        self._out, self._blocks = out, dict(blocks)
        for name in list(self._blocks):
            self.when_whole(name)

    def when_whole(self, name: str) -> None:
        """Write the captions of the images file `name` if its last block is done, and drop the blocks."""
        files = [Path(block.output) for block in self._blocks[name]]
        if (self._out / name).exists() or not all(file.exists() for file in files):
            return
        tables = [read_parquet(file) for file in files]
        metadata = {k.decode(): v.decode() for k, v in (tables[0].schema.metadata or {}).items() if k != b"table"}
        write_parquet(self._out / name, pa.concat_tables(tables), CAPTIONS, metadata)
        for file in files:
            file.unlink()


def _counters(source: str, itm_score: float | None, flags: Iterable[str]) -> list[str]:
    """The counters that a row of captions moves; each image has one web text, which counts the image."""
    first = ["images", "web"] if source == "web" else ["synthetic"]
    return [*first, *(["not_scored"] if itm_score is None else []), *flags]


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
