"""Cuts URL lists into shards: every row of a list becomes a row of a shard, with its key and uid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.schemas.keys import keys_of, number_of, part_name
from blip_bootstrap.schemas.tables import SHARD
from blip_bootstrap.storage.parquet import write_parquet
from blip_bootstrap.storage.withdrawn import Withdrawn, withdraw
from blip_pipelines.lists.batches import list_batches
from blip_pipelines.lists.known import HASH, NO_HASH, KnownWriter, create_known, hash_of, mark_repeats
from blip_pipelines.lists.pool import scratch, scratch_folder
from blip_pipelines.lists.url_lists import AnyList

KEPT_CHARS = 200
"""How many characters are stored of a text that is too long: enough to see what it is."""


def write_shards(
    lists: Sequence[AnyList],
    folder: Path,
    rows_per_shard: int,
    limit: int | None = None,
    max_text_chars: int = 10_000,
    first: int = 0,
) -> list[Path]:
    """Cut the lists into `folder/part-NNNNN.parquet` (table `shard`), `rows_per_shard` rows each, in order.

    Rows with a blank URL, repeated rows (same URL and text, over all lists) and lines that cannot be read get the
    status `rejected`; all others have no status yet. A row with the URL of an earlier one and another text has that
    one's key as `same_as`. `limit` takes the first rows of each list. A text of more than `max_text_chars` characters
    is stored cut, with its length; no model or audit reads it. Lists are streamed: memory holds one shard.
    The numbers of the parts begin with `first`. Raises InputError where a list cannot be read or lacks a column.
    """
    with scratch(folder) as db:
        cutter = Cutter(folder, scratch_folder(folder) / "known", rows_per_shard, max_text_chars, first)
        return cutter.cut(db, lists, 0, limit)


class Cutter:
    """Writes shards to `folder`, numbered from `first` on, and by what their rows are known to the folder `known`.

    Rows with a URL that was `withdrawn` have their key alone.
    """

    def __init__(
        self,
        folder: Path,
        known: Path,
        rows_per_shard: int,
        max_text_chars: int,
        first: int = 0,
        withdrawn: Withdrawn | None = None,
    ) -> None:
        self._folder, self._size, self._max_chars, self._number = folder, rows_per_shard, max_text_chars, first
        self._withdrawn = withdrawn or Withdrawn()
        self._known = KnownWriter(known)
        self.shards: list[Path] = []

    @property
    def known(self) -> list[Path]:
        """The files of the table `known` that were written."""
        return self._known.files

    def cut(
        self,
        db: duckdb.DuckDBPyConnection,
        lists: Sequence[AnyList],
        start: int,
        stop: int | None,
        earlier: Sequence[Path] = (),
    ) -> list[Path]:
        """Write rows `start` up to `stop` of each list as shards, and mark repeated rows; these shards.

        `earlier` are files of the table `known` about rows that come before these, but for those of the table
        `left_out`, if there is one.
        """
        before, known, done = [*earlier, *self.known], len(self.known), len(self.shards)
        tables = (self._placed(table, urls.name) for urls in lists for table in list_batches(urls, start, stop))
        for rows in in_pieces(tables, self._size):
            self._write(rows)
        self._known.close()
        create_known(db, "new_rows", self.known[known:])
        create_known(db, "earlier_rows", before)
        mark_repeats(db, {number_of(shard.name): shard for shard in self.shards})
        return self.shards[done:]

    def _placed(self, table: pa.Table, dataset: str) -> pa.Table:
        """Rows of a list as rows of the table `shard`, without keys, and with `HASH`.

        The uid is that, or the one that the list gives. Also where a text is cut, the hash is of the whole one.
        """
        urls, texts = table["url"].to_pylist(), table["caption"].to_pylist()
        hashes = pa.array([hash_of(url, text) for url, text in zip(urls, texts, strict=True)], pa.string())
        blank = pc.and_(pa.array([not url.strip() for url in urls]), pc.is_null(table["mistake"]))
        is_wrong = pc.or_(blank, pc.is_valid(table["mistake"]))
        chars = pc.utf8_length(table["caption"])
        is_long = pc.greater(chars, self._max_chars)
        cut = pc.utf8_slice_codeunits(table["caption"], 0, min(KEPT_CHARS, self._max_chars))
        made = {
            "uid": pc.if_else(is_wrong, hashes, pc.coalesce(table["uid"], hashes)),
            "dataset": pa.array([dataset], pa.string()).take(pa.array([0] * len(table))),
            "caption": pc.if_else(is_long, cut, table["caption"]),
            "cut_from_chars": pc.if_else(is_long, chars, None),
            "status": pc.if_else(is_wrong, "rejected", None),
            "error_class": pc.if_else(blank, "blank_url", pc.if_else(is_wrong, "other", None)),
            "error_message": pc.if_else(blank, "the URL is blank", table["mistake"]),
        }
        given = {
            one.name: table[one.name] if one.name in table.column_names else pa.nulls(len(table), one.type)
            for one in SHARD.schema
        }
        rows = pa.table(given | made).select(SHARD.schema.names).cast(SHARD.schema)
        if self._withdrawn.urls and any(is_gone := self._withdrawn.among(urls)):
            rows, hashes = withdraw(rows, pa.array(is_gone)), pc.if_else(pa.array(is_gone), NO_HASH, hashes)
        return rows.append_column(HASH, hashes)

    def _write(self, rows: pa.Table) -> None:
        number, path = self._number, self._folder / part_name(self._number)
        self._known.add(number, rows)
        rows = rows.set_column(0, "key", pa.array(keys_of(number, range(len(rows))))).drop_columns([HASH])
        write_parquet(path, rows, SHARD, counts={})
        self.shards.append(path)
        self._number += 1


def in_pieces(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The rows of several tables in tables of `size` rows, the last one of fewer."""
    waiting, num_waiting = list[pa.Table](), 0
    for table in tables:
        waiting.append(table)
        num_waiting += len(table)
        if num_waiting >= size:
            rows = pa.concat_tables(waiting)
            at = 0
            while num_waiting - at >= size:
                yield rows.slice(at, size)
                at += size
            waiting, num_waiting = [rows.slice(at)], num_waiting - at
    if num_waiting:
        yield pa.concat_tables(waiting)
