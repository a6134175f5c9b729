"""Reads URL lists of any format, row by row; and rows of shards, as they were in the lists."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.config import UrlList
from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.header import Header
from blip_bootstrap.reading.records import Record, read_records
from blip_bootstrap.reading.text_files import lines_of, plain_suffix
from blip_bootstrap.storage.cells import NotTextError, text_of
from blip_bootstrap.storage.parquet import open_parquet, read_parquet, write_parquet
from blip_bootstrap.storage.schema import Table
from blip_bootstrap.storage.tables import SHARD


class ListRow(NamedTuple):
    """One URL and its text as they stand in the list; `mistake` says why a line could not be read."""

    url: str
    caption: str
    mistake: str | None = None


def num_rows(path: Path) -> int:
    """The number of rows of a Parquet file, from its footer."""
    with open_parquet(path) as file:
        return int(file.metadata.num_rows)


def write_rows_of(part: Path, path: Path) -> None:
    """Write the rows of the lists that a part was made of, as they were before it was fetched, to `path`."""
    write_parquet(path, as_shard(read_parquet(part, SHARD.schema.names)), SHARD)


def copy_rows(source: Path, path: Path, keys: Sequence[str]) -> None:
    """Write those rows of a shard that have one of these keys; nothing where they are there already."""
    rows = read_parquet(source)
    if source != path or len(rows) != len(keys):
        write_parquet(path, rows.filter(pc.is_in(rows["key"], pa.array(keys))), SHARD)


def with_columns(rows: pa.Table, table: Table) -> pa.Table:
    """Rows of an earlier version with all columns of today, null where they had not been there."""
    for column in table.columns:
        if column.name not in rows.column_names:
            rows = rows.append_column(column.name, pa.nulls(len(rows), column.type))
    return rows.select(table.schema.names)


def as_shard(rows: pa.Table) -> pa.Table:
    """Rows of images as they were before they were fetched: only those that were rejected have a status."""
    rows = with_columns(rows, SHARD)
    is_rejected = pc.equal(rows["status"], "rejected")
    for name in ("status", "error_class", "error_message"):
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, name, pc.if_else(is_rejected, rows[name], pa.scalar(None, pa.string())))
    return rows.cast(SHARD.schema)


def located(row: ListRow, urls: UrlList) -> ListRow:
    """The row with its file name as a URL, percent-encoded: of the list's own server, or after `url_prefix`."""
    name = row.url.strip()
    if not name or not (urls.serve or urls.url_prefix):
        return row
    prefix = f"http://127.0.0.1:{urls.serve_port}/" if urls.serve else urls.url_prefix
    return row._replace(url=f"{prefix}{quote(name)}")


def read_list(urls: UrlList) -> Iterator[ListRow]:
    """The rows of one list; a missing text is "". Raises InputError where the list cannot be read or lacks a column.

    Prints on standard error how many rows have a quote without an end.
    """
    if _is_bare(urls):
        yield from (ListRow(line, "") for _, line in lines_of(urls.path) if line)
        return
    columns, num_lone, first = Columns(urls), 0, ""
    try:
        for record in read_records(urls.path, columns.check, "a URL list"):
            if record.has_lone_quote:
                num_lone, first = num_lone + 1, first or record.where
            yield from columns.rows(record)
    finally:
        if num_lone:
            told = f"rows with a quote that has no end: {num_lone:,} (the first: {first}); it is read as text"
            sys.stderr.write(f"{urls.path}: {told}\n")


def _is_bare(urls: UrlList) -> bool:
    """Whether the list is a .txt file without a header, that is one URL a line."""
    if plain_suffix(urls.path) != ".txt":
        return False
    first = next((line for _, line in lines_of(urls.path) if line.strip()), "")
    named = {name.strip(' "').lower() for name in re.split(r"[\t,;|]", first)}
    return "\t" not in first and urls.url_column.lower() not in named


class Columns:
    """The columns of a list that hold URLs and texts, checked against its header."""

    def __init__(self, urls: UrlList) -> None:
        self.urls, self.caption = urls, urls.caption_column

    def check(self, found: Header) -> list[str]:
        """The columns to read. Raises InputError where one is missing, or holds something else than texts."""
        urls = self.urls
        if self.caption not in found.names and set(found.names) == {urls.url_column}:
            self.caption = None  # a list of URLs alone; their pictures are captioned
        wanted = {"url_column": urls.url_column} | ({"caption_column": self.caption} if self.caption else {})
        try:
            found.require(wanted)
        except InputError as error:
            alone = set(wanted.values()) - set(found.names) == {self.caption}
            raise InputError(f"{error}{'; caption_column: null where it has no texts' if alone else ''}") from None
        found.require_text("url_column", urls.url_column, "one URL a row")
        is_lists = bool(self.caption) and _is_lists(found.kinds.get(self.caption or "", ""))
        if self.caption and not (is_lists and urls.caption_lists):
            more = ", or caption_lists: true, which makes each text of a list a row of its own" if is_lists else ""
            found.require_text("caption_column", self.caption, f"one text a row{more}")
        return list(wanted.values())

    def rows(self, record: Record) -> Iterator[ListRow]:
        """The row of a record; with `caption_lists`, one row for each text where the cell is a list of texts."""
        if record.mistake:
            yield ListRow("", "", record.mistake)
            return
        url = caption = ""
        try:
            url = text_of(record.cells.get(self.urls.url_column))
            cell = record.cells.get(self.caption) if self.caption else None
            for text in (cell or [None]) if self.urls.caption_lists and isinstance(cell, list) else [cell]:
                caption = text_of(text)
                yield ListRow(url, caption)
        except NotTextError as error:
            yield ListRow(url, "", f"{record.where}: {error} where a text was expected")


def _is_lists(kind: str) -> bool:
    """Whether a column holds lists of plain values, by its kind: `lists` (JSON) or `list<element: string>` (Arrow)."""
    return "list" in kind.split("<")[0] and kind.count("<") <= 1
