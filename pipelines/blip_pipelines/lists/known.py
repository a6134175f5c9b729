"""By what rows of lists are known: small tables beside the shards, over which DuckDB finds repeated rows and URLs."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.query.sql_text import literal
from blip_bootstrap.schemas.keys import ROWS_PER_PART, by_number, key_of_id, number_of, part_name
from blip_bootstrap.schemas.schema import Column, Table
from blip_bootstrap.schemas.tables import SHARD
from blip_bootstrap.storage.parquet import read_parquet, write_parquet

KNOWN = "known"
"""In an artifact of images: files of the table `known`, each called like the first part that it is of."""

HASH = "hash"
"""Beside the columns of the table `shard` while shards are cut: the hash of URL and text, which most uids are."""

NO_HASH = "0" * 32
"""Of a row that was withdrawn, of which nothing is known."""

TABLE = Table(
    "known",
    "one row per row of the URL lists, in the order of their keys",
    (
        Column("id", pa.int64(), "the key as a number"),
        Column("high", pa.uint64(), "of the hash of URL and text the first 16 hex digits"),
        Column("low", pa.uint64(), "of the hash of URL and text the last 16 hex digits"),
        Column("url", pa.uint64(), "eight bytes of the md5 of the URL"),
        Column("own", pa.uint64(), "a uid that the list gives, folded to 64 bits; else null"),
        Column("rejected", pa.bool_(), "whether its line cannot be read, its URL is blank, or it was withdrawn"),
        Column("there", pa.bool_(), "whether its picture is there already"),
    ),
    rows_per_group=100_000,
    repeating=("own", "rejected", "there"),
)

ROWS_PER_FILE = 1_000_000
"""Some 25 MB."""

ROWS_AT_ONCE = 1_000_000
"""New rows whose URLs are compared at a time, which takes DuckDB some 150 MB."""

_UID = "lower(lpad(hex(high), 16, '0') || lpad(hex(low), 16, '0'))"

Digests = npt.NDArray[np.uint64]


def write_known(rows: Path, folder: Path) -> None:
    """Write the table `known` of all shards of the folder `rows`, which are read for it, in place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    writer = KnownWriter(folder)
    for name in sorted((path.name for path in rows.glob("part-*.parquet")), key=by_number):
        writer.add(number_of(name), _with_hashes(read_parquet(rows / name)))
    writer.close()


def _with_hashes(rows: pa.Table) -> pa.Table:
    """Rows of a shard with `HASH`; of a text that was cut the uid stands for it."""
    texts = zip(rows["url"].to_pylist(), rows["caption"].to_pylist(), strict=True)
    hashes = pa.array([NO_HASH if url is None else hash_of(url, text) for url, text in texts], pa.string())
    for name in ("cut_from_chars", "origin"):
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(len(rows), pa.string()))
    return rows.append_column(HASH, pc.if_else(pc.is_valid(rows["cut_from_chars"]), rows["uid"], hashes))


def hash_of(url: str, text: str) -> str:
    """By what a row is known: 32 hex digits of the sha256 of its URL and text."""
    return hashlib.sha256(f"{url}\n{text}".encode()).digest()[:16].hex()


class KnownWriter:
    """Collects by what the rows of shards are known, and writes it, a million rows a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, list[Path]()
        self._waiting: list[pa.Table] = []

    def add(self, number: int, rows: pa.Table) -> None:
        """Take all rows of the shard `number`, with their hashes in `HASH`."""
        first, uids = number * ROWS_PER_PART, pc.fill_null(rows["uid"], NO_HASH)
        columns = {
            "id": np.arange(first, first + len(rows)),
            "high": _hex(rows[HASH], 0),
            "low": _hex(rows[HASH], 16),
            "url": _digests_of(pc.fill_null(rows["url"], "").to_pylist()),
            "own": pc.if_else(pc.equal(uids, rows[HASH]), None, _folded(uids)),
            "rejected": pc.is_valid(rows["status"]),
            "there": pc.is_valid(rows["origin"]),
        }
        self._waiting.append(pa.table(columns).cast(TABLE.schema))
        if sum(map(len, self._waiting)) >= ROWS_PER_FILE:
            self.close()

    def close(self) -> None:
        """Write what waits."""
        if self._waiting:
            rows = pa.concat_tables(self._waiting)
            path = self.folder / part_name(rows["id"][0].as_py() // ROWS_PER_PART)
            write_parquet(path, rows, TABLE)
            self.files.append(path)
            self._waiting = []


def _hex(uids: pa.ChunkedArray, first: int) -> pa.Array:
    """Sixteen hex digits of each uid, from the one at `first` on, as a number."""
    digits = "".join(uid[first : first + 16] for uid in uids.to_pylist())
    return pa.array(np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64))


def _folded(uids: pa.ChunkedArray) -> pa.Array:
    """All digits of each uid in 64 bits: a list that numbers its rows has uids that differ in the last ones alone."""
    high, low = (_hex(uids, first).to_numpy() for first in (0, 16))
    return pa.array(high * np.uint64(0x9E3779B97F4A7C15) ^ low)


def _digests_of(urls: Sequence[str]) -> Digests:
    md5 = hashlib.md5
    parts = b"".join(md5(url.encode(), usedforsecurity=False).digest()[:8] for url in urls)
    return np.frombuffer(parts, ">u8").astype(np.uint64)


def create_known(db: duckdb.DuckDBPyConnection, name: str, files: Sequence[Path], where: str = "true") -> None:
    """Make the view `name` over rows of files of the table `known`, without those of the table `left_out`."""
    db.execute("CREATE TABLE IF NOT EXISTS left_out (id BIGINT)")
    db.execute(f"CREATE OR REPLACE VIEW {name} AS FROM ({rows_of(files)}) ANTI JOIN left_out USING (id) WHERE {where}")


def rows_of(files: Sequence[Path]) -> str:
    """SQL for the rows of files of the table `known`; there may be none."""
    if not files:
        numbers = ", ".join(f"0::UBIGINT AS {name}" for name in ("high", "low", "url", "own"))
        return f"SELECT 0 AS id, {numbers}, false AS rejected, false AS there WHERE false"
    names = ", ".join(literal(str(file.absolute())) for file in files)
    return f"SELECT * FROM read_parquet([{names}])"


def mark_repeats(db: duckdb.DuckDBPyConnection, shards: Mapping[int, Path]) -> None:
    """Reject repeated rows of the view `new_rows`, and let others with the URL of an earlier row name that one's key.

    `new_rows` is of rows of `shards`, by number; `earlier_rows` of rows before them, both with the columns of `TABLE`.
    Of rows with one URL and one text the first stays as it is. Memory does not grow with the rows.
    """
    _find_repeats(db)
    _find_uids(db)
    for number, rows in _by_part(db):
        _mark(shards[number], rows)


def mark_same(db: duckdb.DuckDBPyConnection, known: Path, shards: Mapping[int, Path]) -> None:
    """Let rows of the last `shards` that have the URL of an earlier row, and another text, name that one's key.

    As `mark_repeats`, for rows that were compared with all others by URL and text before. The folder `known` has the
    table of these shards and of the rows before them; those of the table `left_out` name nothing and are not named.
    """
    if not shards:
        return
    files, first = sorted(known.glob("part-*.parquet"), key=lambda path: by_number(path.name)), min(shards)
    create_known(db, "new_rows", files, f"id >= {first * ROWS_PER_PART}")
    create_known(db, "earlier_rows", files, f"id < {first * ROWS_PER_PART}")
    _find_repeats(db)
    db.execute("DELETE FROM repeats WHERE again")
    for number, rows in _by_part(db):
        _mark(shards[number], rows)


def _find_repeats(db: duckdb.DuckDBPyConnection) -> None:
    """The table `repeats` of rows that are not the first of a URL: `id`, `first` (its id), `again` (the same text)."""
    slices = _slices(db, "new_rows")
    db.execute("CREATE OR REPLACE TABLE repeats (id BIGINT, first BIGINT, again BOOLEAN, uid VARCHAR)")
    for one in range(slices):
        # Of pictures that are there, and that a host may not have any more, only such are the same.
        db.execute(
            "INSERT INTO repeats WITH fresh AS MATERIALIZED "
            f"(SELECT *, true AS is_new FROM new_rows WHERE NOT rejected AND url % {slices} = {one}), "
            "rows AS (FROM fresh UNION ALL SELECT *, false FROM earlier_rows SEMI JOIN fresh USING (url) "
            "WHERE NOT rejected), "
            "several AS (FROM rows SEMI JOIN (SELECT url FROM rows GROUP BY url HAVING count(*) > 1) USING (url)) "
            f"SELECT id, first, again, if(again, {_UID}, NULL) FROM (SELECT id, is_new, high, low, "
            "if(there, min(id) FILTER (there) OVER (PARTITION BY url), min(id) OVER (PARTITION BY url)) AS first, "
            "id <> min(id) OVER (PARTITION BY url, high, low) AS again FROM several) "
            "WHERE is_new AND (again OR id <> first)"
        )


def _find_uids(db: duckdb.DuckDBPyConnection) -> None:
    """Add rows to `repeats` whose uid, which the list gives, an earlier row has: theirs is their hash."""
    slices = _slices(db, "new_rows WHERE own IS NOT NULL")
    for one in range(slices):
        db.execute(
            "INSERT INTO repeats WITH fresh AS MATERIALIZED (SELECT * FROM new_rows "
            f"ANTI JOIN (SELECT id FROM repeats WHERE again) USING (id) WHERE own % {slices} = {one}), "
            "rows AS (SELECT id, own FROM fresh UNION ALL SELECT id, own FROM earlier_rows), "
            "firsts AS (SELECT own, min(id) AS first FROM rows SEMI JOIN fresh USING (own) GROUP BY own) "
            f"SELECT id, NULL, NULL, {_UID} FROM fresh JOIN firsts USING (own) WHERE id <> first"
        )


def _slices(db: duckdb.DuckDBPyConnection, rows: str) -> int:
    return -(-int(db.execute(f"SELECT count(*) FROM {rows}").fetchall()[0][0]) // ROWS_AT_ONCE)


def _by_part(db: duckdb.DuckDBPyConnection) -> Iterator[tuple[int, pa.Table]]:
    """The rows of `repeats` by the number of their part."""
    numbers = db.execute(f"SELECT DISTINCT id // {ROWS_PER_PART} FROM repeats ORDER BY 1").fetchall()
    for (number,) in numbers:
        first = number * ROWS_PER_PART
        sql = "SELECT * FROM repeats WHERE id BETWEEN ? AND ? ORDER BY id"
        yield number, db.sql(sql, params=[first, first + ROWS_PER_PART - 1]).to_arrow_table()


def _mark(shard: Path, found: pa.Table) -> None:
    rows = read_parquet(shard)
    first_id = number_of(shard.name) * ROWS_PER_PART
    again, same_as, uids = [False] * len(rows), rows["same_as"].to_pylist(), rows["uid"].to_pylist()
    for one in found.to_pylist():
        at = one["id"] - first_id
        again[at] |= bool(one["again"])
        uids[at] = one["uid"] or uids[at]
        if one["first"] is not None and not one["again"]:
            same_as[at] = key_of_id(one["first"])
    made = {"uid": pa.array(uids, pa.string()), "same_as": pa.array(same_as, pa.string())}
    told = {name: pc.if_else(pa.array(again), pa.scalar(value), rows[name]) for name, value in _AGAIN.items()}
    for name, column in (made | told).items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    write_parquet(shard, rows, SHARD, counts={})


_AGAIN = {
    "status": "rejected",
    "error_class": "duplicate_row",
    "error_message": "an earlier row has this URL and this text",
}
