"""Blocks of images: what a worker takes at a time, how it writes their captions, how files are joined of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.config import CaptionConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.schema import Table
from blip_bootstrap.schemas.tables import CAPTIONS
from blip_bootstrap.storage.notes import values
from blip_bootstrap.storage.parquet import open_parquet, read_parquet, reading, write_parquet
from blip_bootstrap.stores.store import fetched, gone, is_there
from blip_pipelines.caption.again import Again, BlockWork, work_of
from blip_pipelines.caption.ahead import one_ahead
from blip_pipelines.caption.answers import ImageRows
from blip_pipelines.cluster.tally import Counts
from blip_pipelines.failures import tries
from blip_pipelines.failures.limits import Limits, Watch
from blip_pipelines.scoring.references import Reference
from blip_pipelines.scoring.rows import IMAGE_COLUMNS, CaptionRow, to_table

if TYPE_CHECKING:
    from blip_pipelines.caption.worker import CaptionWorker


BLOCK_ROWS = 512
"""Images whose captions are written together, and what a kill costs an actor at most. Not a setting: with other blocks
the batches, and with them the last digits of the scores, would differ between a run and its continuation."""


BLOCKS = ".blocks"
"""In the folder of captions: those of blocks whose file of images is not done yet."""


def firsts_of(num_rows: int) -> range:
    """The first row of each block of a file; one without rows has one block, since its file of captions has none."""
    return range(0, max(num_rows, 1), BLOCK_ROWS)


@dataclass(frozen=True)
class Block:
    """`BLOCK_ROWS` rows of one file of images, from row `first` on, and the files where their captions go.

    `output` is the block's own, `merged` the one that all blocks of the file of images, of `num_rows` rows, end in.

    `again`: captions of the file that were made before, of which those without a text are asked for again. `scored`:
    the file of captions that lack nothing but scores of further judges (`rejudge.py`).
    """

    part: str
    first: int
    output: str
    merged: str
    num_rows: int
    again: Again | None = None
    scored: str | None = None

    @classmethod
    def of(
        cls, part: Path, out: Path, first: int, num_rows: int, again: Again | None = None, scored: Path | None = None
    ) -> Block:
        """The block of a file of images from row `first` on; captions go to the folder `out`."""
        output = out / BLOCKS / f"{part.stem}-{first:06d}.parquet"
        again = again.of_part(part.name) if again else None
        before = str(scored.absolute()) if scored else None
        return cls(str(part.absolute()), first, str(output), str(out / part.name), num_rows, again, before)

    @property
    def files(self) -> list[Path]:
        """The files of all blocks of its file of images, in order."""
        name = Path(self.merged).stem
        return [Path(self.output).with_name(f"{name}-{first:06d}.parquet") for first in firsts_of(self.num_rows)]

    def images(self, columns: Sequence[str] = IMAGE_COLUMNS) -> pa.Table:
        """Its rows of images."""
        return read_rows(Path(self.part), self.first, BLOCK_ROWS, columns)

    @property
    def made(self) -> bool:
        """Whether it was finished, by an earlier run or by a task whose answer was lost with its node."""
        # In this order: the merged file is there before a block of it goes.
        return is_there(Path(self.output)) or is_there(Path(self.merged))

    @property
    def is_suspect(self) -> bool:
        """Whether commands that captioned it in their own process died of it."""
        return tries.is_suspect(Path(self.output))


def num_threads(config: CaptionConfig) -> int:
    """Torch's threads in an actor."""
    return max(1, int(config.cpus_per_actor))


class CaptionBlocks:
    """One CaptionWorker that takes blocks, writes their captions, and reports each batch to a tally.

    `noted`: nobody watches this process, and a note beside each block says that it is at work (`failures/tries.py`).
    """

    def __init__(
        self,
        captioner: str | None,
        filter: str,
        config: CaptionConfig,
        num_lanes: int = 1,
        references: Sequence[Reference] = (),
        limits: Limits | None = None,
        noted: bool = False,
        *,
        tally: Counts,
    ) -> None:
        self._arguments = captioner, filter, config, num_threads(config), num_lanes, references
        self._tally, self._noted = tally, noted
        self._watch = Watch("caption", limits or Limits(), waits=self._waits)
        self._begun: deque[BlockWork] = deque()

    @cached_property
    def _worker(self) -> CaptionWorker:
        """Made at the first block that is not made: Ray runs a finished task again where its answer was lost."""
        from blip_pipelines.caption.worker import CaptionWorker  # torch, where captions are made

        return CaptionWorker(*self._arguments)

    def _waits(self) -> bool:
        """Whether a server is waited for, which may have minutes of rest; the worker is none before the first block."""
        if "_worker" not in vars(self):
            return False
        return self._worker.writers.are_waiting or self._worker.judges.are_waiting

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Caption those of the blocks that are not made; yields every block once it is."""
        todo = []
        for block in blocks:
            if block.made:
                merge_if_whole(block)  # who made it may have died since
                yield block
            else:
                todo.append(block)
        if not todo:
            return
        self._begun.clear()
        try:
            with self._watch.watching():
                batches = self._worker.in_blocks(self._images(todo))
                for block in todo:
                    self._caption(block, batches)
                    yield block
        finally:
            self._no_longer_at_work(todo)

    def _caption(self, block: Block, batches: Iterator[tuple[list[CaptionRow], bool]]) -> None:
        """Write the captions of the block whose batches are the next ones."""
        rows: list[CaptionRow] = []
        counts: Counter[str] = Counter()
        is_last = False
        while not is_last:
            with self._watch.batch(self._worker.batch_size):
                done, is_last = next(batches)
            rows += done
            counts.update(name for row in done for name in row.counters)
            self._tally.put(block.output, dict(counts))
        work = self._begun.popleft()  # the next one's may have begun, too: its first pictures are decoded by now
        if work.done:
            counts.update(name for row in work.rows_done for name in row.counters)
            self._tally.put(block.output, dict(counts))
        write_parquet(Path(block.output), to_table(work.in_order(rows)), CAPTIONS, self._worker.metadata)
        work.images.kept.drop()
        self._no_longer_at_work([block])
        merge_if_whole(block)

    def _images(self, blocks: Sequence[Block]) -> Iterator[ImageRows]:
        """The rows of each block's images, read while those of the one before are worked on."""
        with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
            reads = (pool.submit(self._read, block) for block in blocks)
            for read in one_ahead(reads):
                self._begun.append(read.result())
                yield self._begun[-1].images

    def _no_longer_at_work(self, blocks: Sequence[Block]) -> None:
        for block in blocks if self._noted else ():
            tries.end(Path(block.output))

    def _read(self, block: Block) -> BlockWork:
        if self._noted:
            tries.begin(Path(block.output))
        rows: list[dict[str, Any]] = block.images().to_pylist()
        return work_of(rows, Path(block.output), block.again)


def read_rows(part: Path, first: int, count: int, columns: Sequence[str] = IMAGE_COLUMNS) -> pa.Table:
    """`count` rows of a file of images from row `first` on, the columns that captioning needs; without the others.

    Row groups without any of them are not read: at the end of a file of 10,000 images they were all of it.
    """
    with reading(part), open_parquet(part) as file:
        ends = list(accumulate(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)))
        groups = range(bisect_right(ends, first), min(bisect_left(ends, first + count) + 1, len(ends)))
        at = ends[groups[0] - 1] if groups and groups[0] else 0
        return file.read_row_groups(list(groups), list(columns)).slice(first - at, count)


def with_all_columns(captions: pa.Table, table: Table = CAPTIONS) -> pa.Table:
    """Captions with every column of today, null where an earlier version that made them did not have it yet."""
    for column in table.columns:
        if column.name not in captions.column_names:
            captions = captions.append_column(column.name, pa.nulls(len(captions), column.type))
    return captions.select(table.schema.names)


def merge_if_whole(block: Block) -> None:
    """Write the captions of a block's file of images if all of its blocks are done, and drop these.

    Whoever finishes the last block does it. Two that finish at a time may both do it: they write the same.
    """
    merged, files = Path(block.merged), block.files
    if not all(map(is_there, files)) or is_there(merged):
        return
    try:
        tables = [read_parquet(fetched(file)) for file in files]
    except (InputError, OSError):
        if is_there(merged):  # somebody else has, and dropped them
            return
        raise
    metadata = {k.decode(): v.decode() for k, v in (tables[0].schema.metadata or {}).items() if k != b"table"}
    joined = pa.concat_tables(map(with_all_columns, tables))
    write_parquet(merged, joined, CAPTIONS, metadata, counts_of(joined))
    for file in files:
        gone(file)


def counts_of(captions: pa.Table) -> dict[str, int]:
    """Rows of captions by source and flag, those without a score, the images (each has one web text), texts spared."""
    counts = Counter(values(captions["source"])) + Counter(values(pc.list_flatten(captions["flags"])))
    counts["not_scored"] += captions["itm_score"].null_count
    counts["images"] = counts["web"]
    if "spared" in captions.column_names:
        counts["spared"] = pc.sum(captions["spared"]).as_py() or 0
    return dict(+counts)


def counts_in(file: Path) -> dict[str, int]:
    """The same of a file, of which the columns that are counted alone are read; one of before may lack the last."""
    with reading(file), open_parquet(file) as opened:
        wanted = ("source", "itm_score", "flags", "spared")
        return counts_of(opened.read([name for name in wanted if name in opened.schema_arrow.names]))
