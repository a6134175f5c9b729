"""URL lists of any of four formats, cut into shards; every row keeps its place, blank and repeated ones too."""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

import pyarrow as pa

from blip_bootstrap.config import UrlList
from blip_bootstrap.errors import InputError
from blip_bootstrap.tables import open_parquet, rows_to_table, write_parquet
from blip_pipelines.shard_tables import SHARD

MAX_FIELD_BYTES = 10_000_000
"""Longest field of a CSV file; Python's own limit of 131,072 would end the run at one odd row."""


@dataclass(frozen=True)
class ListRow:
    """A row as the list has it. `mistake` is set where the line could not be read."""

    url: str
    caption: str
    mistake: str | None = None


@dataclass
class Sharder:
    """Gives rows their key and uid in order, and finds blank URLs and rows seen before."""

    rows_per_shard: int
    _seen: set[bytes] = field(default_factory=set)
    _num_rows: int = 0

    def place(self, row: ListRow, dataset: str, prefix: str = "") -> dict[str, object]:
        """The row as one of the table `shard`."""
        shard, position = divmod(self._num_rows, self.rows_per_shard)
        self._num_rows += 1
        url = prefix + row.url if row.url.strip() else row.url
        digest = hashlib.sha256(f"{url}\n{row.caption}".encode("utf-8", "surrogatepass"))
        error_class, error_message = self._judge(row, digest.digest()[:16])
        return {
            "key": f"{shard:05d}{position:05d}",
            "uid": digest.hexdigest()[:32],
            "dataset": dataset,
            "url": url,
            "caption": row.caption,
            "status": "rejected" if error_class else None,
            "error_class": error_class,
            "error_message": error_message,
        }

    def _judge(self, row: ListRow, digest: bytes) -> tuple[str | None, str | None]:
        if row.mistake:
            return "other", row.mistake
        if not row.url.strip():
            return "blank_url", "the URL is blank"
        if digest in self._seen:
            return "duplicate_row", "an earlier row has this URL and this text"
        self._seen.add(digest)
        return None, None


def write_shards(lists: Sequence[UrlList], folder: Path, rows_per_shard: int, limit: int | None = None) -> list[Path]:
    """Cut the lists into `folder/part-NNNNN.parquet` (table `shard`), `rows_per_shard` rows each, in order.

    Rows with a blank URL, repeated rows (same URL and text, over all lists) and lines that are no record get the
    status `rejected` here; all others have none yet. `limit` takes the first rows of each list.
    Lists are streamed: memory holds one shard and 16 bytes for each row's digest.
    Raises InputError where a list cannot be read or lacks a column.
    """
    sharder = Sharder(rows_per_shard)
    rows = (
        sharder.place(_served(row, urls), urls.name, urls.url_prefix)
        for urls in lists
        for row in islice(read_list(urls), limit)
    )
    return [_write_shard(folder / f"part-{number:05d}.parquet", part) for number, part in _chunks(rows, rows_per_shard)]


def _served(row: ListRow, urls: UrlList) -> ListRow:
    """A row of file names that the step serves itself: the name becomes the URL on the loopback server."""
    if not urls.serve or not row.url.strip():
        return row
    return replace(row, url=f"http://127.0.0.1:{urls.serve_port}/{quote(row.url.strip())}")


def _write_shard(path: Path, rows: list[dict[str, object]]) -> Path:
    write_parquet(path, rows_to_table(rows, SHARD), SHARD)
    return path


def _chunks(rows: Iterator[dict[str, object]], size: int) -> Iterator[tuple[int, list[dict[str, object]]]]:
    number = 0
    while chunk := list(islice(rows, size)):
        yield number, chunk
        number += 1


def read_list(urls: UrlList) -> Iterator[ListRow]:
    """The rows of one list; text columns that are absent in a row are empty. Raises InputError."""
    reader = _READERS.get(urls.path.suffix.lower())
    if reader is None:
        raise InputError(f"{urls.path}: a URL list ends in one of {' '.join(_READERS)}, not {urls.path.suffix!r}")
    try:
        yield from reader(urls)
    except OSError as error:
        raise InputError(f"{urls.path}: cannot be read ({error.strerror or error})") from error


def check_columns(path: Path, found: Iterable[str], wanted: Iterable[str]) -> None:
    """Raise InputError that names the first missing column, those that are there, and the likely one."""
    columns = list(found)
    for name in wanted:
        if name not in columns:
            close = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(f"{path}: no column {name!r}; its columns are: {', '.join(columns) or 'none'}{hint}")


def _open_text(path: Path, newline: str = "\n") -> TextIO:
    """The file as text: UTF-8, or UTF-16 where it begins so. Bytes that are neither become U+FFFD, the row stays."""
    with path.open("rb") as stream:
        start = stream.read(2)
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return path.open(encoding=encoding, errors="replace", newline=newline)


def _read_tsv(urls: UrlList) -> Iterator[ListRow]:
    with _open_text(urls.path) as stream:
        # Alt texts are full of lone quotes: in a TSV only tabs and line ends separate.
        yield from _read_fields(urls, (_tsv_fields(line) for line in stream))


def _tsv_fields(line: str) -> list[str]:
    fields = line.rstrip("\r\n").split("\t")
    return [f[1:-1].replace('""', '"') if len(f) > 1 and f[0] == f[-1] == '"' else f for f in fields]


def _read_csv(urls: UrlList) -> Iterator[ListRow]:
    csv.field_size_limit(min(MAX_FIELD_BYTES, sys.maxsize))
    with _open_text(urls.path, newline="") as stream:
        try:
            yield from _read_fields(urls, csv.reader(stream))
        except csv.Error as error:
            raise InputError(f"{urls.path}: not CSV ({error})") from error


def _read_fields(urls: UrlList, records: Iterator[list[str]]) -> Iterator[ListRow]:
    header = [name.strip() for name in next(records, [])]
    check_columns(urls.path, header, (urls.url_column, urls.caption_column))
    at_url, at_caption = header.index(urls.url_column), header.index(urls.caption_column)
    for fields in records:
        if fields not in ([], [""]):  # an empty line is no row
            yield ListRow(*(fields[at] if at < len(fields) else "" for at in (at_url, at_caption)))


def _read_jsonl(urls: UrlList) -> Iterator[ListRow]:
    checked = False
    with _open_text(urls.path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            record = parse_object(line)
            if record is None:
                yield ListRow("", "", f"line {number} is not a JSON object")
                continue
            if not checked:
                check_columns(urls.path, record, (urls.url_column, urls.caption_column))
                checked = True
            yield ListRow(_text(record.get(urls.url_column)), _text(record.get(urls.caption_column)))


def parse_object(line: str) -> dict[str, object] | None:
    """One line of JSON lines, or None where it is no object."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _read_parquet(urls: UrlList) -> Iterator[ListRow]:
    columns = [urls.url_column, urls.caption_column]
    try:
        with open_parquet(urls.path) as file:
            check_columns(urls.path, file.schema_arrow.names, columns)
            for batch in file.iter_batches(columns=list(dict.fromkeys(columns))):
                for url, caption in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                    yield ListRow(_text(url), _text(caption))
    except pa.ArrowInvalid as error:
        raise InputError(f"{urls.path}: not a readable Parquet file ({' '.join(str(error).split())})") from error


def _text(value: object) -> str:
    """A cell as text; lone surrogates, which JSON may hold and Arrow not, become question marks."""
    return "" if value is None else str(value).encode("utf-8", "replace").decode("utf-8")


_READERS: dict[str, Callable[[UrlList], Iterator[ListRow]]] = {
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
