"""The records of a list that a user gives: a line of TSV or CSV, a JSON object or a Parquet row each."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.delimited import Fields, records_of, split_fields
from blip_bootstrap.reading.header import Check, Header
from blip_bootstrap.reading.json_files import objects_of
from blip_bootstrap.reading.text_files import COMPRESSED_ENDINGS, lines_of, plain_suffix
from blip_bootstrap.schemas.cells import is_text_type
from blip_bootstrap.storage.parquet import open_parquet

FIRST_RECORDS = 100
"""JSON declares no columns, so the columns are those of so many records at the beginning."""

DELIMITERS = {".tsv": "\t", ".csv": ",", ".txt": "\t"}

JSON_ENDINGS = (".jsonl", ".ndjson", ".json")

ENDINGS = (*DELIMITERS, *JSON_ENDINGS, ".parquet")


def is_list_file(name: str) -> bool:
    """Whether a file is a list that can be read, by its name."""
    return plain_suffix(Path(name)) in ENDINGS


_URL = re.compile(r"\w+://\S+")

_PICTURE = re.compile(r"[^\s\"].*\.(jpe?g|png|webp|gif|bmp|tiff?|avif)(#\d+)?", re.IGNORECASE)
"""A picture's file name; Flickr8k's lists number its captions behind it."""

_FILE_NAME = re.compile(r"\S+/\S+|.*\S\.\w{1,5}")


@dataclass(frozen=True)
class Record:
    """One record of a list: where it begins in the file, its cells by column, or the mistake that it could not be read.

    `has_lone_quote` says that a quote in it has no end and was taken as text.
    """

    where: str
    cells: Mapping[str, Any] = field(default_factory=dict)
    mistake: str | None = None
    has_lone_quote: bool = False


def read_records(
    path: Path,
    check: Check,
    what: str,
    endings: Collection[str] = ENDINGS,
    other: str | None = None,
    with_others: bool = False,
) -> Iterator[Record]:
    """The records of a list in their order, read as they are asked for.

    `check` is called with the list's header before the first record, and returns the columns that are wanted; the first
    of them holds URLs or file names. The format follows from the ending, one of `endings`, with or without that of a
    compression; a file with another ending is read as if it ended in `other`. TSV and CSV begin with a header, but for
    lists of URLs and texts (`url`, `caption`) as CC3M and CC12M publish them, in either order. A line that is no record
    comes out as a Record with a `mistake`. `with_others`: records have the cells of the other columns too, but for
    bytes. `what` names the list in messages. Raises InputError where the file cannot be read.
    """
    ending = plain_suffix(path)
    ending = ending if ending in endings else other or ending
    if ending not in endings:
        packed = f"(or that and {' '.join(COMPRESSED_ENDINGS)})"
        hint = "; pictures that are there already belong in download.pictures" if ".tar" in path.name.lower() else ""
        raise InputError(f"{path}: {what} ends in one of {' '.join(endings)}, not {path.suffix!r} {packed}{hint}")
    if ending == ".parquet":
        return _of_parquet(path, check, with_others)
    if ending in JSON_ENDINGS:
        return _of_json(path, check)
    return _of_delimited(path, check, DELIMITERS[ending])


def _of_delimited(path: Path, check: Check, delimiter: str) -> Iterator[Record]:
    lines = lines_of(path)
    head = next(((number, line) for number, line in lines if line.strip()), (0, ""))
    delimiter = _delimiter(head[1], delimiter)
    names = [name.strip() for name in split_fields(head[1], delimiter)[0]] if head[1] else []
    if names and (given := _names_without_header(names)):
        names, lines = given, chain([head], lines)
    wanted = check(Header(path, names))
    is_record = _RecordTest(len(names), names.index(wanted[0]))
    for number, fields, lone in records_of(lines, delimiter, is_record):
        is_record.learn(fields)
        if delimiter == "," and len(fields) > len(names) and names[-1] in wanted[1:2]:
            # An unquoted comma in the text, where the text is the last column.
            fields[len(names) - 1 :] = [delimiter.join(fields[len(names) - 1 :])]
        yield Record(f"line {number}", dict(zip(names, fields, strict=False)), has_lone_quote=lone)


def _names_without_header(fields: Fields) -> Fields | None:
    """The columns' names where the first line is a URL, or a URL or a picture and a text, and no header; else None."""
    urls = [_URL.fullmatch(field) is not None for field in fields]
    if len(urls) <= 2 and sum(urls) == 1:
        return ["url" if is_url else "caption" for is_url in urls]
    pictures = [_PICTURE.fullmatch(field) is not None for field in fields]
    if len(fields) == 2 and sum(pictures) == 1 and not any(urls):
        return ["image" if is_name else "caption" for is_name in pictures]
    return None


@dataclass
class _RecordTest:
    """Whether fields make a record: there are as many as columns, and the one at `at` is a URL or file name."""

    num_columns: int
    at: int
    pattern: re.Pattern[str] = _FILE_NAME

    def __call__(self, fields: Fields) -> bool:
        self.learn(fields)
        return len(fields) == self.num_columns and self.pattern.fullmatch(fields[self.at].strip()) is not None

    def learn(self, fields: Fields) -> None:
        """Accept only URLs once one was seen, since texts such as `shop.com` and `it.The` look like file names."""
        if self.pattern is not _URL and len(fields) == self.num_columns and _URL.fullmatch(fields[self.at].strip()):
            self.pattern = _URL


def _delimiter(header: str, usual: str) -> str:
    """The usual delimiter of the file's ending, or where the header lacks it the one that it has, as `;` in a CSV."""
    return usual if usual in header else next((one for one in "\t;,|" if one in header), usual)


def _of_json(path: Path, check: Check) -> Iterator[Record]:
    objects = objects_of(path)
    first = list(islice(objects, FIRST_RECORDS))
    known = [cells for _, cells in first if cells is not None]
    if not first:
        return
    if not known:
        raise InputError(f"{path}: line {first[0][0]} is not a JSON object, nor is any of the {len(first)} read first")
    names = list(dict.fromkeys(name for cells in known for name in cells))
    try:
        check(Header(path, names, {name: kind for name in names if (kind := _kind(one.get(name) for one in known))}))
    except InputError:
        _check_lists(path, known)
        raise
    for number, cells in chain(first, objects):
        where = f"line {number}"
        yield Record(where, cells) if cells is not None else Record(where, mistake=f"{where} is not a JSON object")


def _check_lists(path: Path, known: list[dict[str, Any]]) -> None:
    """Raise InputError where the file is one object that holds the records in a list, as COCO's annotations do."""
    lists = [name for name, cell in known[0].items() if isinstance(cell, list) and _kind(cell) == "mappings"]
    if len(known) == 1 and lists:
        named = " or ".join(map(repr, lists))
        raise InputError(f"{path}: is one JSON object, its records seem to be its list {named}; save that list alone")


def _kind(cells: Iterable[Any]) -> str | None:
    """The kind of a column's cells where all of them are lists, mappings or booleans; None for any other column."""
    found = list(cells)
    for what, kind in (("lists", list), ("mappings", dict), ("true and false", bool)):
        if found and all(isinstance(cell, kind) for cell in found):
            return what
    return None


def _of_parquet(path: Path, check: Check, with_others: bool) -> Iterator[Record]:
    try:
        with open_parquet(path) as file:
            schema = file.schema_arrow
            kinds = {one.name: str(one.type) for one in schema if not is_text_type(one.type)}
            wanted = list(dict.fromkeys([*check(Header(path, schema.names, kinds)), *_others(schema, with_others)]))
            row = 0
            for batch in file.iter_batches(columns=wanted):
                for cells in zip(*(_cells(batch.column(name)) for name in wanted), strict=True):
                    row += 1
                    yield Record(f"row {row}", dict(zip(wanted, cells, strict=True)))
    except pa.ArrowException as error:
        raise InputError(f"{path}: not a readable Parquet file ({' '.join(str(error).split())})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _others(schema: pa.Schema, are_wanted: bool) -> list[str]:
    """The columns whose cells are no bytes and whose names are there once; none where none are wanted."""
    if not are_wanted:
        return []
    return [one.name for one in schema if schema.names.count(one.name) == 1 and "binary" not in str(one.type)]


def _cells(column: pa.Array) -> list[Any]:
    """The column's values; a float32 as the shortest number that is written so: 1.1, not 1.10000002384."""
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        return [None if cell is None else float(str(cell)) for cell in column.to_numpy(zero_copy_only=False)]
    try:
        return list(column.to_pylist())
    except pa.ArrowException:
        raise
    except Exception:  # noqa: BLE001  # texts that are no UTF-8; dates and time zones that Python has not
        return list(_written(column).to_pylist())


def _written(column: pa.Array) -> pa.Array:
    """A column that Python cannot hold: texts as bytes, dates as Arrow writes them, in UTC; empty beyond its years."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_temporal(kind):
        plain = column.cast(pa.timestamp(kind.unit)) if pa.types.is_timestamp(kind) else column
        texts = plain.cast(pa.string())
        return pc.if_else(pc.starts_with(texts, "<"), None, texts)
    return column.cast(pa.large_list(pa.large_binary()) if pa.types.is_nested(kind) else pa.large_binary())
