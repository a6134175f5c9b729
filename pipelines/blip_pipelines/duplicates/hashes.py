"""The step that hashes pictures by their looks: each stored picture decoded, one file of hashes for each file."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from blip_bootstrap.config import RayConfig
from blip_bootstrap.machine import num_cores
from blip_bootstrap.schemas.tables import PICTURE_HASHES
from blip_bootstrap.storage.parquet import open_parquet, parquet_files, reading
from blip_bootstrap.stores.store import is_there
from blip_pipelines.cluster.each_file import EachFile
from blip_pipelines.cluster.resources import works_here
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
    stay. Pictures are decoded in child processes with a deadline and a memory limit: one that ends its child has no
    hash. Returns the numbers of rows and of those with a hash.
    """
    num_lacking = sum(not is_there(out / one.name) for one in parquet_files(pictures))
    children = num_cores() if works_here(ray, num_lacking) else 1
    counts = HASHES.run(out, pictures, partial(PictureHasher, children), ray)
    return {name: counts[name] for name in ("rows", "hashed")}


def count_hashes(hashes: pa.Table) -> dict[str, int]:
    """The numbers of rows of `picture_hashes`, and of those with a hash."""
    return {"rows": len(hashes), "hashed": len(hashes) - hashes["quality"].null_count}


HASHES = EachFile("hash", "images", PICTURE_HASHES, ["quality"], count_hashes)


class PictureHasher:
    """What a worker runs: hashes the pictures of files, one file after another, with `num_children` decoders."""

    def __init__(self, num_children: int, *, tally: Counts) -> None:
        self._num_children, self._tally = num_children, tally

    def __call__(self, pictures: Path) -> Iterator[pa.Table]:
        """The hashes of the pictures of a file."""
        found: list[pa.Table] = [PICTURE_HASHES.schema.empty_table()]
        done, threads = 0, self._num_children
        store = PictureProcesses(hash_picture, MAX_PIXELS, DECODE_TIMEOUT_S, threads)
        with store, ThreadPoolExecutor(threads) as pool, reading(pictures), open_parquet(pictures) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=["key", "jpg"]):
                rows = [*pool.map(partial(_row, store), batch.to_pylist())]
                found.append(pa.Table.from_pylist(rows, schema=PICTURE_HASHES.schema))
                done += len(rows)
                self._tally.put(str(pictures), {"images": done})
        yield pa.concat_tables(found)


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
