"""By what rows of lists are known: small tables beside the shards, over which DuckDB finds repeated rows and URLs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.query.sql_text import literal
from blip_bootstrap.storage.keys import ROWS_PER_PART, key_of_id, number_of, part_name
from blip_bootstrap.storage.parquet import read_parquet, write_parquet
from blip_bootstrap.storage.schema import Column, Table
from blip_bootstrap.storage.tables import SHARD

KNOWN = "known"
"""In an artifact of images: files of the table `known`, each called like the first part that it is of."""

TABLE = Table(
    "known",
    "one row per row of the URL lists, in the order of their keys",
    (
        Column("id", pa.int64(), "the key as a number"),
        Column("high", pa.uint64(), "the first 16 hex digits of the uid"),
        Column("low", pa.uint64(), "the last 16 hex digits of the uid"),
        Column("url", pa.uint64(), "eight bytes of the md5 of the URL"),
        Column("rejected", pa.bool_(), "whether its line cannot be read or its URL is blank"),
    ),
    rows_per_group=100_000,
    repeating=("rejected",),
)

ROWS_PER_FILE = 1_000_000
"""Some 25 MB."""

ROWS_AT_ONCE = 1_000_000
"""New rows whose URLs are compared at a time, which takes DuckDB some 150 MB."""

Digests = npt.NDArray[np.uint64]


class KnownWriter:
    """Collects by what the rows of shards are known, and writes it, a million rows a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, list[Path]()
        self._waiting: list[pa.Table] = []

    def add(self, number: int, digests: Sequence[bytes], urls: Sequence[str], rejected: pa.Array) -> None:
        """Take all rows of the shard `number`: the digests (16 bytes) that are their uids, and their URLs."""
        first = number * ROWS_PER_PART
        high, low = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).T
        ids = np.arange(first, first + len(urls))
        columns = [ids, high.astype(np.uint64), low.astype(np.uint64), _digests_of(urls), rejected]
        self._waiting.append(pa.Table.from_arrays([pa.array(one) for one in columns], schema=TABLE.schema))
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


def _digests_of(urls: Sequence[str]) -> Digests:
    md5 = hashlib.md5
    parts = b"".join(md5(url.encode(), usedforsecurity=False).digest()[:8] for url in urls)
    return np.frombuffer(parts, ">u8").astype(np.uint64)


def create_known(db: duckdb.DuckDBPyConnection, name: str, files: Sequence[Path]) -> None:
    """Make the view `name` over files of the table `known`; it may be empty."""
    db.execute(f"CREATE OR REPLACE VIEW {name} AS {rows_of(files)}")


def rows_of(files: Sequence[Path]) -> str:
    """SQL for the rows of files of the table `known`; there may be none."""
    if not files:
        return "SELECT 0 AS id, 0::UBIGINT AS high, 0::UBIGINT AS low, 0::UBIGINT AS url, false AS rejected WHERE false"
    names = ", ".join(literal(str(file.absolute())) for file in files)
    return f"SELECT * FROM read_parquet([{names}])"


def mark_repeats(db: duckdb.DuckDBPyConnection, shards: Mapping[int, Path]) -> None:
    """Reject repeated rows of the view `new_rows`, and let others with the URL of an earlier row name that one's key.

    `new_rows` is of rows of `shards`, by number; `earlier_rows` of rows before them, both with the columns of `TABLE`.
    Of rows with one URL and one text the first stays as it is. Memory does not grow with the rows.
    """
    _find_repeats(db)
    for number, rows in _by_part(db):
        _mark(shards[number], rows)


def _find_repeats(db: duckdb.DuckDBPyConnection) -> None:
    """The table `repeats` of rows that are not the first of a URL: `id`, `first` (its id), `again` (the same text)."""
    (num_new,), *_ = db.execute("SELECT count(*) FROM new_rows").fetchall()
    slices = -(-num_new // ROWS_AT_ONCE)
    db.execute("CREATE OR REPLACE TABLE repeats (id BIGINT, first BIGINT, again BOOLEAN)")
    for one in range(slices):
        db.execute(
            "INSERT INTO repeats WITH fresh AS MATERIALIZED "
            f"(SELECT *, true AS is_new FROM new_rows WHERE NOT rejected AND url % {slices} = {one}), "
            "rows AS (FROM fresh UNION ALL SELECT *, false FROM earlier_rows SEMI JOIN fresh USING (url) "
            "WHERE NOT rejected), "
            "several AS (FROM rows SEMI JOIN (SELECT url FROM rows GROUP BY url HAVING count(*) > 1) USING (url)) "
            "SELECT id, first, again FROM (SELECT id, is_new, min(id) OVER (PARTITION BY url) AS first, "
            "id <> min(id) OVER (PARTITION BY url, high, low) AS again FROM several) WHERE is_new AND id <> first"
        )


def _by_part(db: duckdb.DuckDBPyConnection) -> Iterator[tuple[int, pa.Table]]:
    """The rows of `repeats` by the number of their part."""
    numbers = db.execute(f"SELECT DISTINCT id // {ROWS_PER_PART} FROM repeats ORDER BY 1").fetchall()
    for (number,) in numbers:
        first = number * ROWS_PER_PART
        sql = "SELECT * FROM repeats WHERE id BETWEEN ? AND ? ORDER BY id"
        yield number, db.sql(sql, params=[first, first + ROWS_PER_PART - 1]).to_arrow_table()


def _mark(shard: Path, found: pa.Table) -> None:
    rows = read_parquet(shard)
    first = number_of(shard.name) * ROWS_PER_PART
    at = np.asarray(found["id"]) - first
    again, same_as = np.zeros(len(rows), bool), np.full(len(rows), None, object)
    again[at] = found["again"]
    same_as[at] = [
        None if repeated else key_of_id(one)
        for one, repeated in zip(found["first"].to_pylist(), found["again"].to_pylist(), strict=True)
    ]
    told = {
        "status": "rejected",
        "error_class": "duplicate_row",
        "error_message": "an earlier row has this URL and this text",
    }
    mask = pa.array(again)
    for name, value in told.items():
        column = pc.if_else(mask, pa.scalar(value), rows[name])
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    rows = rows.set_column(rows.schema.get_field_index("same_as"), "same_as", pa.array(same_as, pa.string()))
    write_parquet(shard, rows, SHARD)
