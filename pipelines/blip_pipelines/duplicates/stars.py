"""Groups of pictures that look alike: pairs found band by band by workers, and a star around each first picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.config import DuplicatesConfig, RayConfig
from blip_bootstrap.progress import Progress
from blip_bootstrap.schemas.schema import Column, Table
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, write_parquet
from blip_bootstrap.stores.store import fetched, gone, is_there
from blip_pipelines.cluster.items import HERE, Pool, run_items
from blip_pipelines.cluster.resources import num_workers, works_here
from blip_pipelines.cluster.session import connect
from blip_pipelines.cluster.tally import Counts
from blip_pipelines.duplicates.near import NUM_BANDS, NUM_WORDS, Words, band_of, pairs_in_band, to_words

NEAR = ".near"
"""In the folder of groups while they are made: the distinct hashes, and the pairs that workers found among them."""

HASHES_PER_FILE = 500_000

HASHES_PER_ITEM = 2_000_000
"""Hashes that a worker compares at a time: two million take 80 MB, and their candidates 60 MB."""

HASHES_PER_WORKER = 1_000_000
"""Fewer are compared in this process: 16 bands of a million take seconds."""

MEMBERS_AT_ONCE = 100_000

_WORDS = [f"w{word}" for word in range(NUM_WORDS)]

DISTINCT = Table(
    "distinct_hashes",
    "one row per hash that a picture has",
    (
        Column("n", pa.int64(), "its number, by the keys of the first pictures that have it"),
        *(Column(word, pa.uint64(), "64 of its bits") for word in _WORDS),
    ),
)

NEAR_PAIRS = Table(
    "near_pairs",
    "one row per pair of hashes that differ in few bits",
    (
        Column("a", pa.int64(), "number of the lesser hash"),
        Column("b", pa.int64(), "number of the greater hash"),
        Column("distance", pa.int16(), "bits in which they differ"),
    ),
)


def find_near(db: duckdb.DuckDBPyConnection, out: Path, hashes: Path, config: DuplicatesConfig, ray: RayConfig) -> None:
    """Fill the table `near` of `db`: of each first of an exact group that looks like an earlier one, that one."""
    _load(db, hashes, config.least_quality)
    db.execute(
        f"CREATE TABLE nodes AS SELECT row_number() OVER (ORDER BY id) - 1 AS n, id, {', '.join(_WORDS)} FROM "
        f"(SELECT min(id) AS id, {', '.join(_WORDS)} FROM hashes GROUP BY {', '.join(_WORDS)})"
    )
    folder = out / NEAR
    gone(folder)
    files, count = _write_distinct(db, folder)
    items = _items(folder, files, count)
    _compare(items, config.near_radius, _pool(ray, count, len(items)))
    db.execute("CREATE TABLE members (b BIGINT, a BIGINT, distance SMALLINT)")
    for members in _members(db, [item.pairs for item in items], count):
        db.register("loaded", members)
        db.execute("INSERT INTO members SELECT b, a, distance FROM loaded")
        db.unregister("loaded")
    db.execute(
        "INSERT INTO near SELECT h.id, coalesce(f.id, n.id), coalesce(m.distance, 0) FROM hashes h "
        f"JOIN nodes n USING ({', '.join(_WORDS)}) LEFT JOIN members m ON m.b = n.n LEFT JOIN nodes f ON f.n = m.a "
        "WHERE coalesce(f.id, n.id) <> h.id"
    )
    gone(folder)


def _load(db: duckdb.DuckDBPyConnection, hashes: Path, least_quality: int) -> None:
    """The table `hashes`: those with structure, of the rows that are the firsts of their exact groups."""
    columns = ", ".join(f"{word} UBIGINT" for word in _WORDS)
    db.execute(f"CREATE TABLE hashes (id BIGINT, {columns})")
    for file in parquet_files(hashes):
        rows = read_parquet(file)
        rows = rows.filter(pc.greater_equal(rows["quality"], least_quality))
        words = to_words(rows["pdq"].to_pylist())
        db.register("loaded", pa.table({"key": rows["key"], **dict(zip(_WORDS, words.T.copy(), strict=True))}))
        db.execute(
            "INSERT INTO hashes SELECT l.key::BIGINT, l.* EXCLUDE key FROM loaded l "
            "SEMI JOIN pictures p ON p.unit = l.key::BIGINT ANTI JOIN links k ON k.id = l.key::BIGINT"
        )
        db.unregister("loaded")


def _write_distinct(db: duckdb.DuckDBPyConnection, folder: Path) -> tuple[list[Path], int]:
    """The distinct hashes as files that every worker reads, and how many there are."""
    ((count,),) = db.execute("SELECT count(*) FROM nodes").fetchall()
    files = []
    for first in range(0, count, HASHES_PER_FILE):
        some = db.sql(
            f"SELECT n, {', '.join(_WORDS)} FROM nodes WHERE n BETWEEN ? AND ? ORDER BY n",
            params=[first, first + HASHES_PER_FILE - 1],
        ).to_arrow_table()
        files.append(folder / f"hashes-{first // HASHES_PER_FILE:05d}.parquet")
        write_parquet(files[-1], some.cast(DISTINCT.schema), DISTINCT)
    return files, int(count)


@dataclass(frozen=True)
class BandItem:
    """One item: the hashes whose bits in `band` are in low..high, among those of `files`; `pairs` is its answer."""

    files: tuple[str, ...]
    band: int
    low: int
    high: int
    pairs: str


def _items(folder: Path, files: Sequence[Path], count: int) -> list[BandItem]:
    num = -(-count // HASHES_PER_ITEM)
    ends = [(1 << 16) * at // max(num, 1) for at in range(num + 1)]
    names = tuple(str(file.absolute()) for file in files)
    return [
        BandItem(names, band, low, high - 1, str(folder.absolute() / f"pairs-{band:02d}-{low:05d}.parquet"))
        for band in range(NUM_BANDS)
        for low, high in pairwise(ends)
    ]


def _pool(ray: RayConfig, count: int, num_items: int) -> Pool:
    if works_here(ray, -(-count // HASHES_PER_WORKER)):
        return HERE
    connect(ray)
    return Pool(num_workers(ray, 0, cpus_each=1, at_most=num_items))


def _compare(items: Sequence[BandItem], radius: int, pool: Pool) -> None:
    def take(item: BandItem) -> None:
        fetched(Path(item.pairs))  # of a run on a store, what another machine has made

    with Progress("near", len(items), "bands") as progress:
        run_items("near", items, partial(BandComparison, radius), pool, take, progress, {})


class BandComparison:
    """What a worker runs: the pairs of hashes that agree in one band and differ in at most `radius` bits."""

    def __init__(self, radius: int, *, tally: Counts) -> None:
        self._radius, self._tally = radius, tally

    def __call__(self, item: BandItem) -> Iterator[BandItem]:
        """Write the pairs of `item` unless they are there."""
        if not is_there(Path(item.pairs)):
            numbers, words = _read(item)
            found = [NEAR_PAIRS.schema.empty_table()]
            for pairs in pairs_in_band(words, item.band, self._radius):
                left, right = numbers[pairs.left], numbers[pairs.right]
                columns = {"a": np.minimum(left, right), "b": np.maximum(left, right), "distance": pairs.distance}
                found.append(pa.table(columns, NEAR_PAIRS.schema))
            write_parquet(Path(item.pairs), pa.concat_tables(found), NEAR_PAIRS)
        self._tally.put(item.pairs, {"bands": 1})
        yield item


def _read(item: BandItem) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], Words]:
    """The numbers and words of the hashes of an item."""
    numbers, words = [], []
    for file in item.files:
        rows = read_parquet(Path(file))
        some = np.stack([rows[word].to_numpy() for word in _WORDS], axis=1)
        values = band_of(some, item.band)
        mine = (values >= item.low) & (values <= item.high)
        numbers.append(rows["n"].to_numpy()[mine])
        words.append(some[mine])
    return np.concatenate(numbers), np.concatenate(words)


def _members(db: duckdb.DuckDBPyConnection, pairs: Sequence[str], count: int) -> Iterator[pa.Table]:
    """Which hashes belong to which star, some at a time: (b, a, distance), b a member of the star around a.

    Pairs come by their greater hash, so that it is decided of each lesser one whether it is a member before. The state
    is a byte for each hash, 10 MB for ten million.
    """
    is_member, found, done = bytearray(count), list[tuple[int, int, int]](), -1
    if not pairs:
        return
    ordered = db.cursor().sql("SELECT b, a, distance FROM read_parquet(?) ORDER BY b, a", params=[list(pairs)])
    for batch in ordered.to_arrow_reader(MEMBERS_AT_ONCE):
        for b, a, distance in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if b != done and not is_member[a]:
                is_member[b], done = 1, b
                found.append((b, a, distance))
        if len(found) >= MEMBERS_AT_ONCE:
            yield _table(found)
            found = []
    if found:
        yield _table(found)


def _table(found: Sequence[tuple[int, int, int]]) -> pa.Table:
    return pa.table(dict(zip(("b", "a", "distance"), map(list, zip(*found, strict=True)), strict=True)))
