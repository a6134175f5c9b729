"""What a training knows of its files before it reads pictures: numbers of each row group, and no key or text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from blip_bootstrap.errors import BlipBootstrapError, InputError
from blip_bootstrap.storage.parquet import open_parquet, read_parquet, reading
from blip_bootstrap.stores.store import is_there
from blip_training.feed.shards import Shard

THREADS = 16
"""Files that are counted at a time: 3 to 6 requests each where they lie on a store."""

Exchange = Callable[[Any], list[Any]]
"""Gives what each worker of a training says, in the order of their ranks; all of them must call it."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """The row groups of a set that have samples, in the order of the files: an array for each kind of number.

    `shard` and `number` say which row group of which file it is, `first_texts` and `last_texts` in which row groups of
    the pairs file its texts are. `weight` is the number of its samples in an epoch, or its mean where texts have
    weights; `size_bytes` that of its pictures as stored in the file, and `kept_bytes` of those that have samples.
    `source` numbers the lists (datasets) that rows come from.
    """

    shard: Numbers
    number: Numbers
    first_texts: Numbers
    last_texts: Numbers
    weight: NDArray[np.float64]
    size_bytes: Numbers
    kept_bytes: Numbers
    source: NDArray[Any]

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def num_samples(self) -> int:
        """The number of samples of an epoch."""
        total = float(self.weight.sum())
        return max(round(total), int(total > 0))

    def of_epoch(self, rng: np.random.Generator) -> Numbers:
        """The number of samples that each row group has in an epoch, `num_samples` in all.

        Where texts have weights a group's number is the whole number below or above its mean, so often that it has its
        mean over the epochs.
        """
        if not np.any(self.weight % 1):
            return self.weight.astype(np.int64)
        ends = np.cumsum(self.weight)
        ends = ends * (self.num_samples / ends[-1])
        ends[-1] = self.num_samples
        counted: Numbers = np.diff(np.floor(ends + rng.random()).astype(np.int64), prepend=0)
        return counted


def count_samples(shards: Sequence[Shard], rank: int = 0, world: int = 1, exchange: Exchange | None = None) -> Counts:
    """Count the samples of each row group from the small columns; the files are read by threads.

    With an `exchange` each of `world` workers reads every `world`-th file, and they tell each other what they found.
    Local files take some 10 ms each. Raises InputError where a file is missing or damaged, or pairs are of other
    images, on every worker.
    """
    if exchange is None:
        return _merged(_count_files(shards, 0, 1))
    found: list[tuple[int, Counts]] | BlipBootstrapError
    try:
        found = _count_files(shards, rank, world)
    except BlipBootstrapError as error:
        found = error
    said = exchange(found)
    if failed := next((one for one in said if isinstance(one, BlipBootstrapError)), None):
        raise failed
    return _merged([one for part in said for one in part])


def _count_files(shards: Sequence[Shard], rank: int, world: int) -> list[tuple[int, Counts]]:
    numbers = range(rank, len(shards), world)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="count") as pool:
        counted = list(pool.map(_count, numbers, (shards[number] for number in numbers)))
    return list(zip(numbers, counted, strict=True))


def _merged(found: Sequence[tuple[int, Counts]]) -> Counts:
    """The counts of all files in their order, with numbers for the names of lists."""
    parts = [counts for _, counts in sorted(found, key=lambda one: one[0])]
    columns = {one.name: [getattr(part, one.name) for part in parts] for one in fields(Counts)}
    none = np.zeros(0, np.int64)
    joined: dict[str, Any] = {name: np.concatenate(arrays) if arrays else none for name, arrays in columns.items()}
    joined["source"] = np.unique(joined["source"], return_inverse=True)[1]
    return Counts(**joined)


def _count(number: int, shard: Shard) -> Counts:
    """The counts of one file."""
    if shard.pairs and not is_there(shard.images):
        raise InputError(f"{shard.pairs}: its image file {shard.images} is missing; make the images anew")
    with reading(shard.images), open_parquet(shard.images) as file:
        metadata = file.metadata
        keys = file.read(["key"])["key"] if shard.pairs else None
    size, of_row = metadata.num_row_groups, _groups_of_rows(metadata)
    rows, weights, groups = _texts(shard, keys)
    of_text = of_row[rows]
    of_picture = np.bincount(of_row[np.unique(rows if weights is None else rows[weights > 0])], minlength=size)
    per_group = of_picture.astype(np.float64)
    if shard.drawing.texts_per_image == "all":
        per_group = np.bincount(of_text, weights, minlength=size).astype(np.float64)
    firsts, lasts = np.full(size, np.iinfo(np.int64).max), np.full(size, -1)
    np.minimum.at(firsts, of_text, groups)
    np.maximum.at(lasts, of_text, groups)
    stored, kept_share, sources = _of_pictures(metadata)
    at = np.flatnonzero(per_group > 0)
    return Counts(
        shard=np.full(len(at), number),
        number=at,
        first_texts=firsts[at],
        last_texts=lasts[at],
        weight=per_group[at],
        size_bytes=stored[at],
        kept_bytes=np.ceil(stored * kept_share * of_picture).astype(np.int64)[at],
        source=sources[at],
    )


def _groups_of_rows(metadata: pq.FileMetaData) -> Numbers:
    """The row group of each row of a file."""
    sizes = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
    return np.repeat(np.arange(len(sizes)), np.array(sizes, np.int64))


def _texts(shard: Shard, keys: pa.ChunkedArray | None) -> tuple[Numbers, NDArray[np.float64] | None, Numbers]:
    """Of each text that is trained on: the row of its picture in the file, its weight, its row group in the pairs."""
    if shard.pairs is None or keys is None:
        table = read_parquet(shard.images, ["key", "captions", "status"])
        lengths = pc.fill_null(pc.list_value_length(table["captions"]), 0).to_numpy()
        counts = np.where(shard.usable(table).to_numpy(zero_copy_only=False), lengths, 0)
        rows = np.repeat(np.arange(len(counts)), counts)
        return rows, None, np.zeros(len(rows), np.int64)
    with reading(shard.pairs), open_parquet(shard.pairs) as file:
        of_row = _groups_of_rows(file.metadata)
        table = file.read(shard.columns_of(file.schema_arrow.metadata))
    kept = shard.kept(table)
    groups = of_row[kept.to_numpy(zero_copy_only=False)]
    table = table.filter(kept)
    found = pc.index_in(table["key"], keys.combine_chunks())
    if found.null_count:
        missing = table["key"].filter(pc.is_null(found))[0]
        raise InputError(f"{shard.pairs}: key {missing} is not in {shard.images}; make the pairs anew")
    return found.to_numpy().astype(np.int64), shard.weights(table), groups


def _of_pictures(metadata: pq.FileMetaData) -> tuple[Numbers, NDArray[np.float64], NDArray[Any]]:
    """Of each row group: the bytes of its pictures, the share of them that one has, and the list it is from.

    By the statistics of the file's footer. Rows of two lists in one row group count as those of one.
    """
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    at = {groups[0].column(at).path_in_schema: at for at in range(metadata.num_columns)} if groups else {}
    pictures = [group.column(at["jpg"]) for group in groups]
    nulls = [one.statistics.null_count if one.statistics and one.statistics.has_null_count else 0 for one in pictures]
    shares = [1 / max(1, group.num_rows - none) for group, none in zip(groups, nulls, strict=True)]
    return (
        np.array([one.total_compressed_size for one in pictures], np.int64),
        np.array(shares, np.float64),
        np.array([_least(group, at.get("dataset")) for group in groups], np.str_),
    )


def _least(group: pq.RowGroupMetaData, column: int | None) -> str:
    """The least value of a column of a row group; empty where nobody says."""
    found = group.column(column).statistics if column is not None else None
    return str(found.min) if found and found.has_min_max else ""
