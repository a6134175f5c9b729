"""Reads URL lists of any format, row by row; and rows of shards, as they were in the lists."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.config import UrlList
from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.header import Header
from blip_bootstrap.reading.known_names import TEXT_NAMES, UID_NAME, URL_NAMES, extra_of, find_name, uid_of
from blip_bootstrap.reading.places import files_of
from blip_bootstrap.reading.records import Record, is_list_file, read_records
from blip_bootstrap.reading.text_files import lines_of, plain_suffix
from blip_bootstrap.schemas.cells import NotTextError, text_of
from blip_bootstrap.schemas.closed_lists import WITHDRAWN
from blip_bootstrap.schemas.schema import Table
from blip_bootstrap.schemas.tables import SHARD
from blip_bootstrap.storage.parquet import open_parquet, read_parquet, write_parquet
from blip_pipelines.bring.index import PictureRows

AnyList: TypeAlias = UrlList | PictureRows
"""What rows come from: URLs, or pictures that are there already."""


class ListRow(NamedTuple):
    """One URL and its text as they stand in the list; `mistake` says why a line could not be read."""

    url: str
    caption: str
    mistake: str | None = None
    uid: str | None = None
    """The row's own uid; None: it gets one."""
    extra: str | None = None
    """JSON of the other columns."""
    source_key: str | None = None
    """Of a picture that is there already: its key there."""
    origin: str | None = None
    """Of a picture that is there already: where (`blip_pipelines.bring`)."""


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
    """Rows of images as they were before they were fetched: only rejected and withdrawn ones have a status."""
    rows = with_columns(rows, SHARD)
    is_rejected = pc.is_in(rows["status"], pa.array(["rejected", WITHDRAWN]))
    for name in ("status", "error_class", "error_message"):
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, name, pc.if_else(is_rejected, rows[name], pa.scalar(None, pa.string())))
    return rows.cast(SHARD.schema)


def located(row: ListRow, urls: AnyList) -> ListRow:
    """The row with its file name as a URL, percent-encoded: of the list's own server, or after `url_prefix`."""
    name = row.url.strip()
    if not name or isinstance(urls, PictureRows) or not (urls.serve or urls.url_prefix):
        return row
    prefix = f"http://127.0.0.1:{urls.serve_port}/" if urls.serve else urls.url_prefix
    return row._replace(url=f"{prefix}{quote(name)}")


def read_list(urls: AnyList, every: bool = True) -> Iterator[ListRow]:
    """The rows of one list, of one file or several; a missing text is "".

    `every`: all of its rows will be asked for. Prints on standard error how many rows have a quote without an end.
    Raises InputError where the list cannot be read or lacks a column.
    """
    if isinstance(urls, PictureRows):
        yield from (ListRow(**row) for row in urls.rows(every))
        return
    for one in one_by_one(urls):
        yield from read_file(one)


def one_by_one(urls: UrlList) -> list[UrlList]:
    """A list of several files as a list for each."""
    return [urls.model_copy(update={"path": file}) for file in files_of(urls.path, is_list_file)]


def read_file(urls: UrlList) -> Iterator[ListRow]:
    """The rows of one file, as `read_list`."""
    if _is_bare(urls):
        yield from (ListRow(line, "") for _, line in lines_of(urls.path) if line)
        return
    columns, num_lone, first = Columns(urls), 0, ""
    try:
        for record in read_records(urls.path, columns.check, "a URL list", with_others=True):
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
    return "\t" not in first and not named & {urls.url_column.lower(), *URL_NAMES}


class Columns:
    """The columns of a list that hold URLs and texts, checked against its header."""

    def __init__(self, urls: UrlList) -> None:
        self.urls, self.url, self.caption = urls, urls.url_column, urls.caption_column
        self.uid: str | None = None

    def check(self, found: Header) -> list[str]:
        """The columns to read. Raises InputError where one is missing, or holds something else than texts."""
        urls = self.urls
        self._recognise(found.names)
        if self.caption not in found.names and set(found.names) == {self.url}:
            self.caption = None  # a list of URLs alone; their pictures are captioned
        wanted = {"url_column": self.url} | ({"caption_column": self.caption} if self.caption else {})
        try:
            found.require(wanted)
        except InputError as error:
            alone = set(wanted.values()) - set(found.names) == {self.caption}
            raise InputError(f"{error}{'; caption_column: null where it has no texts' if alone else ''}") from None
        found.require_text("url_column", self.url, "one URL a row")
        is_lists = bool(self.caption) and _is_lists(found.kinds.get(self.caption or "", ""))
        if self.caption and not (is_lists and urls.caption_lists):
            more = ", or caption_lists: true, which makes each text of a list a row of its own" if is_lists else ""
            found.require_text("caption_column", self.caption, f"one text a row{more}")
        return list(wanted.values())

    def _recognise(self, names: Sequence[str]) -> None:
        """Take the names that published lists have, where a setting has its default and the list has no such column."""
        if self.url == "url" and self.url not in names:
            self.url = find_name(names, URL_NAMES) or self.url
        if self.caption == "caption" and self.caption not in names:
            self.caption = find_name(names, TEXT_NAMES) or self.caption
        self.uid = find_name(names, [UID_NAME])

    def rows(self, record: Record) -> Iterator[ListRow]:
        """The row of a record; with `caption_lists`, one row for each text where the cell is a list of texts."""
        if record.mistake:
            yield ListRow("", "", record.mistake)
            return
        url = caption = ""
        try:
            url = text_of(record.cells.get(self.url))
            cell = record.cells.get(self.caption) if self.caption else None
            uid = uid_of(record.cells.get(self.uid)) if self.uid else None
            extra = extra_of(record.cells, [self.url, self.caption or "", (self.uid or "") if uid else ""])
            for text in (cell or [None]) if self.urls.caption_lists and isinstance(cell, list) else [cell]:
                caption = text_of(text)
                yield ListRow(url, caption, uid=uid, extra=extra)
                uid = None  # the picture's other texts are rows of their own
        except NotTextError as error:
            yield ListRow(url, "", f"{record.where}: {error} where a text was expected")


def _is_lists(kind: str) -> bool:
    """Whether a column holds lists of plain values, by its kind: `lists` (JSON) or `list<element: string>` (Arrow)."""
    return "list" in kind.split("<")[0] and kind.count("<") <= 1
