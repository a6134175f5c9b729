"""The rows of URL lists as Arrow tables of some thousand rows: read as columns where a list has plain texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from blip_bootstrap.config import UrlList
from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.header import Header
from blip_bootstrap.reading.text_files import plain_suffix
from blip_bootstrap.schemas.cells import is_text_type
from blip_bootstrap.storage.parquet import open_parquet
from blip_pipelines.bring.index import PictureRows
from blip_pipelines.lists.url_lists import AnyList, Columns, ListRow, located, one_by_one, read_file, read_list

BATCH_ROWS = 10_000

LISTED = pa.schema([(name, pa.string()) for name in ListRow._fields])
"""The columns of a table of rows of a list: those of `ListRow`."""


def list_batches(urls: AnyList, start: int = 0, stop: int | None = None) -> Iterator[pa.Table]:
    """Rows `start` up to `stop` of a list in tables of the schema `LISTED`. Raises InputError as `read_list` does."""
    at = 0
    for table in _tables(urls, every=stop is None):
        first, last = max(start - at, 0), len(table) if stop is None else min(stop - at, len(table))
        at += len(table)
        if first < last:
            yield table.slice(first, last - first)
        if stop is not None and at >= stop:
            return


def _tables(urls: AnyList, every: bool) -> Iterator[pa.Table]:
    if isinstance(urls, PictureRows):
        yield from _of_rows(read_list(urls, every), urls)
        return
    for one in one_by_one(urls):
        is_parquet = plain_suffix(one.path) == ".parquet"
        yield from _of_texts(one) if is_parquet else _of_rows(read_file(one), one)


def _of_rows(rows: Iterable[ListRow], urls: AnyList) -> Iterator[pa.Table]:
    rows = iter(rows)
    while some := list(islice(rows, BATCH_ROWS)):
        columns = zip(*(located(row, urls) for row in some), strict=True)
        yield pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], schema=LISTED)


def _of_texts(urls: UrlList) -> Iterator[pa.Table]:
    """The rows of a Parquet file, without a Python object for each where it has texts and no other columns."""
    try:
        with open_parquet(urls.path) as file:
            schema = file.schema_arrow
            others = {one.name: str(one.type) for one in schema if not is_text_type(one.type)}
            columns = Columns(urls)
            wanted = list(dict.fromkeys(columns.check(Header(urls.path, schema.names, others))))
            is_plain = set(schema.names) == set(wanted) and all(_is_text(one.type) for one in schema)
            if is_plain and not (urls.serve or urls.url_prefix):
                for batch in file.iter_batches(BATCH_ROWS, columns=wanted):
                    yield from _checked(batch, columns, urls)
                return
    except pa.ArrowException as error:
        raise InputError(f"{urls.path}: not a readable Parquet file ({' '.join(str(error).split())})") from error
    except OSError as error:
        raise InputError(f"{urls.path}: cannot be read ({error.strerror or error})") from error
    yield from _of_rows(read_file(urls), urls)


def _is_text(kind: pa.DataType) -> bool:
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind))


def _checked(batch: pa.RecordBatch, columns: Columns, urls: UrlList) -> Iterator[pa.Table]:
    """The rows of a batch; row by row where a text is not UTF-8, which no other cell of a text can be."""
    names = [columns.url, columns.caption]
    found: dict[str, pa.Array] = {}
    try:
        batch.validate(full=True)
        for to, name in zip(("url", "caption"), names, strict=True):
            found[to] = pc.fill_null(batch.column(name).cast(pa.string()), "") if name else _empty(len(batch))
    except pa.ArrowInvalid:
        cells = zip(*(_bytes(batch.column(name)) if name else [b""] * len(batch) for name in names), strict=True)
        rows = (ListRow(*(cell.decode("utf-8", "replace") for cell in of_row)) for of_row in cells)
        yield from _of_rows(rows, urls)
        return
    nulls = pa.nulls(len(batch), pa.string())
    yield pa.Table.from_arrays([found.get(name, nulls) for name in LISTED.names], schema=LISTED)


def _empty(count: int) -> pa.Array:
    return pa.array([""] * count, pa.string())


def _bytes(column: pa.Array) -> list[bytes]:
    return [cell or b"" for cell in column.cast(pa.large_binary()).to_pylist()]
