"""The step that hashes pictures by their looks: each stored picture decoded, one file of hashes for each file."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from blip_bootstrap.config import RayConfig
from blip_bootstrap.machine import num_cores
from blip_bootstrap.progress import Progress
from blip_bootstrap.storage.parquet import open_parquet, parquet_files, read_parquet, reading, write_parquet
from blip_bootstrap.storage.store import fetched, is_there
from blip_bootstrap.storage.tables import PICTURE_HASHES
from blip_pipelines.cluster.items import HERE, Pool, run_items
from blip_pipelines.cluster.resources import num_workers, works_here
from blip_pipelines.cluster.session import connect
from blip_pipelines.cluster.tally import Counts
from blip_training.data.decode import PictureError, open_picture
from blip_training.data.picture_child import Answer
from blip_training.data.picture_processes import PictureProcesses

MAX_PIXELS = 100_000_000
"""Pictures are stored already, mostly small; this bounds the memory of a decoder where they kept their size."""

DECODE_TIMEOUT_S = 30.0

ROWS_AT_ONCE = 500


def hash_pictures(out: Path, pictures: Path, *, ray: RayConfig) -> dict[str, int]:
    """Write the PDQ hash of every stored picture of `pictures`, a folder of the table `images` or `annotated`.

    Each file makes one of the same name (table `picture_hashes`), with its rows in their order; files that are there
    stay. Pictures are decoded in child processes with a deadline and a memory limit. Returns the numbers of rows and of
    those with a hash.
    """
    files = parquet_files(pictures)
    todo = [HashedFile(str(one.absolute()), str((out / one.name).absolute())) for one in files
            if not (out / one.name).exists()]  # fmt: skip
    pool = _pool(ray, len(todo))
    total = sum(_num_rows(Path(one.pictures)) for one in todo)
    with Progress("hash", total, unit="images") as progress:
        if todo:
            work = partial(PictureHasher, num_cores() if pool == HERE else 1)
            run_items("hash", todo, work, pool, _fetched, progress, {})
    qualities = [read_parquet(out / one.name, ["quality"])["quality"] for one in files]
    return {"rows": sum(map(len, qualities)), "hashed": sum(len(one) - one.null_count for one in qualities)}


def _num_rows(file: Path) -> int:
    with reading(file), open_parquet(file) as parquet:
        return int(parquet.metadata.num_rows)


def _fetched(one: HashedFile) -> None:
    fetched(Path(one.hashes))  # of a run on a store, what another machine has made


def _pool(ray: RayConfig, num_files: int) -> Pool:
    if works_here(ray, num_files):
        return HERE
    connect(ray)
    return Pool(num_workers(ray, 0, cpus_each=1, at_most=num_files))


@dataclass(frozen=True)
class HashedFile:
    """One item: the path of a file of pictures, and of the file of their hashes."""

    pictures: str
    hashes: str


class PictureHasher:
    """What a worker runs: hashes the pictures of files, one file after another, with `num_children` decoders."""

    def __init__(self, num_children: int, *, tally: Counts) -> None:
        self._num_children, self._tally = num_children, tally

    def __call__(self, file: HashedFile) -> Iterator[HashedFile]:
        """Write the hashes of `file` unless they are there: Ray repeats a finished task whose result was lost."""
        if not is_there(Path(file.hashes)):
            self._hash(Path(file.pictures), Path(file.hashes))
        yield file

    def _hash(self, pictures: Path, hashes: Path) -> None:
        found: list[pa.Table] = [PICTURE_HASHES.schema.empty_table()]
        done, threads = 0, self._num_children
        store = PictureProcesses(hash_picture, MAX_PIXELS, DECODE_TIMEOUT_S, threads)
        with store, ThreadPoolExecutor(threads) as pool, reading(pictures), open_parquet(pictures) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=["key", "jpg"]):
                rows = [*pool.map(partial(_row, store), batch.to_pylist())]
                found.append(pa.Table.from_pylist(rows, schema=PICTURE_HASHES.schema))
                done += len(rows)
                self._tally.put(str(hashes), {"images": done})
        write_parquet(hashes, pa.concat_tables(found), PICTURE_HASHES, counts={})


def _row(store: PictureProcesses, row: dict[str, Any]) -> dict[str, Any]:
    """The hash of one picture; without one where there is no picture, or it cannot be decoded."""
    if not row["jpg"]:
        return {"key": row["key"]}
    try:
        columns, pdq = store(row["jpg"])
    except PictureError:
        return {"key": row["key"]}
    return {"key": row["key"], "pdq": pdq, **columns}


def hash_picture(body: bytes) -> Answer:
    """The PDQ hash of an encoded picture, 32 bytes, and its quality, 0..100. Raises PictureError as open_picture."""
    import pdqhash  # in the children that decode alone

    opened = open_picture(body, MAX_PIXELS)
    bits, quality = pdqhash.compute(np.ascontiguousarray(opened.image))
    return {"quality": int(quality)}, np.packbits(bits.astype(np.uint8)).tobytes()
