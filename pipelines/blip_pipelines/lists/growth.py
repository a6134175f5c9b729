"""A download that grows out of others: the rows of its lists are compared with those of the parts that are there.

DuckDB does it, over columns alone; a table that memory does not hold it keeps on disk, beside the images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.config import DownloadConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.progress import tell
from blip_bootstrap.schemas.keys import ROWS_PER_PART, key_of_id, keys_of, number_of, part_name
from blip_bootstrap.schemas.tables import IMAGES, SHARD
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.parquet import read_parquet, write_parquet
from blip_bootstrap.storage.parts import borrow
from blip_bootstrap.storage.withdrawn import withdrawn_of
from blip_bootstrap.stores.store import gone
from blip_pipelines.lists.known import KNOWN, mark_same, write_known
from blip_pipelines.lists.pool import (
    CURRENT,
    KIND,
    ROWS,
    Pool,
    part_names,
    scratch_folder,
    spans_of,
)
from blip_pipelines.lists.shards import Cutter
from blip_pipelines.lists.url_lists import (
    AnyList,
    as_shard,
    copy_rows,
    num_rows,
    with_columns,
    write_rows_of,
)

LIST_ROWS = 50_000
"""Rows of the lists in each scratch file: some 10 MB."""

FAILED = ("failed_to_download", "failed_to_resize")


def no_rows(lists: Sequence[AnyList]) -> InputError:
    """The error where the lists are empty."""
    return InputError(f"{', '.join(str(urls.path) for urls in lists)}: no rows")


class Growing:
    """The plan of one artifact, made in the tables of a DuckDB."""

    def __init__(
        self,
        db: duckdb.DuckDBPyConnection,
        out: Path,
        lists: Sequence[AnyList],
        config: DownloadConfig,
        pool: Pool,
        free: int,
    ) -> None:
        self.db, self.out, self.lists, self.config, self.pool, self.free = db, out, lists, config, pool, free
        self.folder = scratch_folder(out) / "listed"

    @property
    def has_any(self) -> bool:
        """Whether anything was fetched, or can be fetched again under the name that it had."""
        return bool(self.pool.parts) or any(path.parent.parent != self.out for path in self.pool.shards.values())

    def grow(self, again: bool, error_class: str | None) -> tuple[int, dict[str, list[tuple[int, int]]]]:
        """Decide, tell in a line what, and do it: link, copy and write; `again`: failed rows are tried again.

        Returns the number of rows of the lists, and the rows of parts that are in no list any more. Raises InputError
        where the lists have no row, or none that can be tried again.
        """
        num_listed = self._read_lists()
        self._place()
        if self.config.limit:
            self._find_beyond()
        taken, cut = self._taken()
        self._want()
        num_again = self._want_again(error_class) if again else 0
        if again and not num_again and not self._count("wanted") and not self._is_begun:
            of_class = f" with {error_class}" if error_class else ""
            raise InputError(f"no row of the lists has failed{of_class}; there is none to try again")
        num_new = self._count("wanted") - num_again
        kept = self._keep_shards()
        self._take(taken, cut, kept)
        self._write_new()
        write_known(self.out / ROWS, self.out / KNOWN)
        self._mark_same()
        told = [f"{len(taken):,} parts as they are", f"{num_new:,} new rows"]
        told += [f"{num_again:,} failed rows tried again"] if again else []
        tell(f"  download  {', '.join(told)}")
        # Of a row that no list has, every try that is in these parts: the current one may be in a part that is not.
        self.db.execute("UPDATE placed SET place = 'removed' WHERE place = 'retried' AND num = 0")
        spans = spans_of(self.db, f"place = 'removed' AND id // {ROWS_PER_PART} IN (SELECT number FROM taken)")
        return num_listed, {name: kinds["removed"] for name, kinds in spans.items()}

    @property
    def _is_begun(self) -> bool:
        """Whether something was fetched for this artifact, or is about to be."""
        return bool(self._count("pool WHERE is_own")) or any(
            path.parent.parent == self.out for path in self.pool.shards.values()
        )

    def _count(self, table: str) -> int:
        return int(self.db.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])

    def _read_lists(self) -> int:
        """Write the rows of the lists to scratch files, and the tables `listed` and `wishes`, by uid; their number."""
        known, gone = self.folder / KNOWN, withdrawn_of(self.out)
        self.cutter = Cutter(self.folder, known, LIST_ROWS, self.config.max_text_chars, withdrawn=gone)
        self.files = self.cutter.cut(self.db, self.lists, 0, self.config.limit)
        if not self.files:
            raise no_rows(self.lists)
        self.db.execute(
            f"CREATE TABLE listed AS SELECT key::BIGINT AS line, coalesce(uid, '') AS uid, {KIND} AS kind "
            "FROM read_parquet(?)",
            [[str(file.absolute()) for file in self.files]],
        )
        self.db.execute("CREATE TABLE wishes AS SELECT uid, kind, count(*) AS num FROM listed GROUP BY ALL")
        return self._count("listed")

    def _place(self) -> None:
        """The table `placed`: each row of the pool with its `place`: listed, removed, or retried (not current)."""
        self.db.execute(CURRENT)
        self.db.execute(
            "CREATE TABLE placed AS SELECT s.*, coalesce(w.num, 0) AS num, CASE WHEN nth = 0 THEN 'retried' "
            "WHEN nth <= coalesce(w.num, 0) THEN 'listed' ELSE 'removed' END AS place "
            "FROM standing s LEFT JOIN wishes w USING (uid, kind)"
        )

    def _find_beyond(self) -> None:
        """Let rows that stand in the lists after the limit have the place `beyond`.

        The lists are read on until each row in question was found, so to their ends where one was removed.
        """
        undecided = (
            "SELECT DISTINCT uid, kind FROM placed WHERE (place = 'removed' OR num = 0) AND NOT is_own AND "
            f"id // {ROWS_PER_PART} IN (SELECT id // {ROWS_PER_PART} FROM placed WHERE place <> 'removed' AND num > 0)"
        )
        self.db.execute(f"CREATE TABLE undecided AS {undecided}")
        self.db.execute("CREATE TABLE found (uid VARCHAR, kind VARCHAR)")
        start, size = self.config.limit or 0, LIST_ROWS
        while self._count("undecided") and self._look(start, start + size):
            start, size = start + size, 4 * size
        self.db.execute(
            "UPDATE placed SET place = 'beyond' FROM found WHERE placed.uid = found.uid AND placed.kind = found.kind "
            "AND (place = 'removed' OR num = 0) AND NOT is_own"
        )

    def _look(self, start: int, stop: int) -> bool:
        """Move rows of the lists, `start` up to `stop` of each, from `undecided` to `found`; whether there were any."""
        made = self.cutter.cut(self.db, self.lists, start, stop)
        if made:
            listed = f"SELECT DISTINCT coalesce(uid, '') AS uid, {KIND} AS kind FROM read_parquet(?)"
            self.db.execute(f"CREATE OR REPLACE TEMP TABLE looked AS {listed}", [[str(one.absolute()) for one in made]])
            self.db.execute("INSERT INTO found FROM undecided SEMI JOIN looked USING (uid, kind)")
            self.db.execute("CREATE OR REPLACE TABLE undecided AS FROM undecided ANTI JOIN looked USING (uid, kind)")
        for file in made:
            file.unlink()
        return bool(made)

    def _taken(self) -> tuple[list[str], list[str]]:
        """The names of the parts that hold a row of the lists or are made here, and of those that the limit cuts."""
        self.db.execute(
            f"CREATE TABLE taken AS SELECT id // {ROWS_PER_PART} AS number, bool_or(place = 'beyond') AS is_cut "
            "FROM placed GROUP BY number HAVING bool_or(is_own OR (num > 0 AND place <> 'removed'))"
        )
        taken = self.db.execute("SELECT number, is_cut FROM taken ORDER BY number").fetchall()
        return [part_name(number) for number, _ in taken], [part_name(number) for number, is_cut in taken if is_cut]

    def _want(self) -> None:
        """The table `wanted`: rows of the lists that the pool lacks, by their `line` in the scratch files.

        `n` tells rejected rows of one uid apart, of which the pool may have some.
        """
        self.db.execute(
            "CREATE TABLE wanted AS SELECT line, NULL::BIGINT AS id, uid, kind, 1 AS n FROM listed "
            "ANTI JOIN (SELECT uid FROM pool WHERE kind = '') USING (uid) WHERE kind = ''"
        )
        self.db.execute(
            "INSERT INTO wanted SELECT line, NULL, uid, kind, n - there FROM (SELECT line, l.uid, l.kind, "
            "row_number() OVER (PARTITION BY l.uid, l.kind ORDER BY line) AS n, coalesce(num, 0) AS there "
            "FROM listed l LEFT JOIN (SELECT uid, kind, count(*) AS num FROM pool WHERE kind <> '' GROUP BY ALL) "
            "USING (uid, kind) WHERE l.kind <> '') WHERE n > there"
        )

    def _want_again(self, error_class: str | None) -> int:
        """Add the current rows that have failed to `wanted`, by their keys, but for those tried in this artifact."""
        of_class = "AND error_class = ?" if error_class else ""
        self.db.execute(
            "INSERT INTO wanted SELECT NULL, id, uid, kind, 1 FROM placed WHERE kind = '' AND place = 'listed' "
            f"AND NOT is_own AND status IN {FAILED} {of_class}",
            [error_class] if error_class else [],
        )
        return self._count("wanted WHERE id IS NOT NULL")

    def _keep_shards(self) -> set[str]:
        """Shards that are there, with those of their rows that are wanted, keep their names; the names."""
        self.db.execute("CREATE TABLE held (shard INTEGER, name VARCHAR, key VARCHAR, uid VARCHAR, kind VARCHAR)")
        for order, (name, path) in enumerate(self.pool.shards.items()):
            self.db.register("loaded", read_parquet(path, ["key", "uid", "status", "error_class"]))
            self.db.execute(f"INSERT INTO held SELECT ?, ?, key, coalesce(uid, ''), {KIND} FROM loaded", [order, name])
            self.db.unregister("loaded")
        self.db.execute(
            "CREATE TABLE kept AS SELECT name, key, uid, kind, n FROM (SELECT *, row_number() OVER "
            "(PARTITION BY uid, kind ORDER BY shard, key) AS n FROM held) SEMI JOIN wanted USING (uid, kind, n)"
        )
        self.db.execute("CREATE TABLE new AS SELECT line, id FROM wanted ANTI JOIN kept USING (uid, kind, n)")
        kept = set[str]()
        for name, path in self.pool.shards.items():
            keys = [key for (key,) in self.db.execute("SELECT key FROM kept WHERE name = ?", [name]).fetchall()]
            if keys:
                kept.add(name)
                copy_rows(path, self.out / ROWS / name, keys)
        return kept

    def _take(self, taken: Sequence[str], cut: Sequence[str], kept: set[str]) -> None:
        """Have the parts that are taken over, and drop links and shards that are not in the plan."""
        for path in self.out.glob("part-*.parquet"):
            if path.is_symlink() and path.name not in taken:
                gone(path)
        for name in taken:
            self._cut(name) if name in cut else self._borrow(name)
        for name in {*part_names(self.out / ROWS)} - {*taken} - kept:
            gone(self.out / ROWS / name)

    def _borrow(self, name: str) -> None:
        part, place = self.pool.parts[name], self.out / name
        if place.resolve() != part.resolve():
            gone(place)  # a link to, or a copy of some rows of, what `part` has more of
            borrow(self.out, part)
        rows, there = self.out / ROWS / name, part.parent / ROWS / name
        if not _has(rows, num_rows(part)):
            if _has(there, num_rows(part)):
                rows.parent.mkdir(exist_ok=True)
                write_whole(rows, there.read_bytes())
            else:  # of a version before this one
                write_rows_of(part, rows)

    def _cut(self, name: str) -> None:
        """Copy those rows of a part that are not beyond the limit, under their keys."""
        first = number_of(name) * ROWS_PER_PART
        found = self.db.execute(
            "SELECT id FROM placed WHERE id BETWEEN ? AND ? AND place <> 'beyond'", [first, first + ROWS_PER_PART - 1]
        ).fetchall()
        keys, place = [key_of_id(at) for (at,) in found], self.out / name
        if place.is_symlink() or not place.exists() or {*read_parquet(place, ["key"])["key"].to_pylist()} != {*keys}:
            rows = read_parquet(self.pool.parts[name])
            write_parquet(place, with_columns(rows.filter(pc.is_in(rows["key"], pa.array(keys))), IMAGES), IMAGES)
        if not _has(self.out / ROWS / name, len(keys)):
            write_rows_of(place, self.out / ROWS / name)

    def _write_new(self) -> None:
        """Cut the rows that are to be fetched and have no shard yet into new ones."""
        size, number, waiting = self.config.rows_per_shard, self.free, SHARD.schema.empty_table()
        for rows in self._new_rows():
            waiting = pa.concat_tables([waiting, rows]).combine_chunks()
            while len(waiting) >= size:
                self._write_shard(number, waiting.slice(0, size))
                number, waiting = number + 1, waiting.slice(size)
        if len(waiting):
            self._write_shard(number, waiting)

    def _mark_same(self) -> None:
        """Let rows of the new shards name rows that stay and have their URL; not those that are tried again."""
        places = ((number_of(name), self.out / ROWS / name) for name in part_names(self.out / ROWS))
        self.db.execute("CREATE TABLE IF NOT EXISTS left_out (id BIGINT)")
        self.db.execute(
            "INSERT INTO left_out SELECT id FROM placed WHERE place <> 'listed' UNION SELECT id FROM wanted "
            "WHERE id IS NOT NULL"
        )
        mark_same(self.db, self.out / KNOWN, {number: path for number, path in places if number >= self.free})

    def _new_rows(self) -> Iterable[pa.Table]:
        for file in self.files:
            chosen = "SELECT * FROM read_parquet(?) SEMI JOIN new ON key::BIGINT = line ORDER BY key"
            yield self.db.sql(chosen, params=[str(file.absolute())]).to_arrow_table().cast(SHARD.schema)
        again = "SELECT id FROM new WHERE id BETWEEN ? AND ?"
        numbers = self.db.execute(f"SELECT DISTINCT id // {ROWS_PER_PART} FROM new WHERE id IS NOT NULL ORDER BY 1")
        for (number,) in numbers.fetchall():
            first = number * ROWS_PER_PART
            keys = [key_of_id(at) for (at,) in self.db.execute(again, [first, first + ROWS_PER_PART - 1]).fetchall()]
            rows = read_parquet(self.pool.parts[part_name(number)], SHARD.schema.names)
            yield as_shard(rows.filter(pc.is_in(rows["key"], pa.array(keys))))

    def _write_shard(self, number: int, rows: pa.Table) -> None:
        keys = pa.array(keys_of(number, range(len(rows))))
        at = rows.schema.get_field_index("same_as")  # what it named was a row of a scratch file, or of an earlier try
        rows = rows.set_column(0, "key", keys).set_column(at, "same_as", pa.nulls(len(rows), pa.string()))
        write_parquet(self.out / ROWS / part_name(number), rows, SHARD, counts={})


def _has(path: Path, count: int) -> bool:
    return path.exists() and num_rows(path) == count
