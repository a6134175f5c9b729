"""The files of an artifact that has many: a Parquet file beside MANIFEST.json, which names it with its sha256."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq

from blip_bootstrap.errors import InputError

MANY_FILES = 400
"""More files than these are not in the JSON: that of 2,000 files takes 25 ms to read and check, the Parquet 3 ms."""

FILES = "MANIFEST.files"
"""The Parquet file; its name has another ending, so that nothing takes it for a part of the table."""

BLOCK = 1_000
"""Entries that are made of their columns at a time: whoever asks for one asks for the next one, too."""

FILES_IN = "files_in"
"""In a MANIFEST.json, in place of `files`: the name, sha256 and number of entries of that file."""

_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("rows", pa.int64()),
        ("counts", pa.string()),
        ("at", pa.string()),
        ("of", pa.string()),
        ("same", pa.string()),
    ]
)

Entry = Mapping[str, Any]


class Files(Sequence[Entry]):
    """The entries of many files, held as columns; each is as `describe_files` made it."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._held: tuple[int, list[Entry]] = (-1, [])

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, at: int) -> Entry: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Entry]: ...

    def __getitem__(self, at: int | slice) -> Entry | Sequence[Entry]:
        if isinstance(at, slice):
            first, stop, step = at.indices(len(self))
            return [self[one] for one in range(first, stop, step)]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        block, place = divmod(at % len(self), BLOCK)
        if (held := self._held)[0] != block:
            held = self._held = block, [*map(_entry, self._table.slice(block * BLOCK, BLOCK).to_pylist())]
        return held[1][place]

    def __iter__(self) -> Iterator[Entry]:
        for batch in self._table.to_batches(max_chunksize=10_000):
            yield from map(_entry, batch.to_pylist())

    def columns(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """These columns alone, entry by entry, None where one lacks it."""
        return zip(*(self._table[name].to_pylist() for name in names), strict=True)


def columns_of(files: Sequence[Entry], *names: str) -> Iterator[tuple[Any, ...]]:
    """These values of each entry, in order, None where one lacks it."""
    if isinstance(files, Files):
        return files.columns(*names)
    return (tuple(one.get(name) for name in names) for one in files)


def names_of(files: Sequence[Entry]) -> Iterator[str]:
    """The names alone, in order."""
    return (str(name) for (name,) in columns_of(files, "name"))


def _entry(row: Mapping[str, Any]) -> Entry:
    found = {name: value for name, value in row.items() if value is not None}
    return found | ({"counts": json.loads(found["counts"])} if "counts" in found else {})


def as_parquet(files: Iterable[Entry]) -> bytes:
    """The bytes of the Parquet file that holds these entries. Raises ValueError for one that it has no column for."""
    rows = [{**one, "counts": json.dumps(one["counts"])} if "counts" in one else one for one in files]
    if unknown := {name for one in rows for name in one} - set(_SCHEMA.names):
        raise ValueError(f"{FILES}: no column for {', '.join(sorted(unknown))}")
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(one) for one in rows], schema=_SCHEMA), out, compression="zstd")
    return out.getvalue()


def pointer_to(data: bytes, number: int) -> dict[str, Any]:
    """What MANIFEST.json says of the Parquet file with these bytes."""
    return {"name": FILES, "sha256": hashlib.sha256(data).hexdigest(), "number": number}


def read_files(folder: Path, pointer: Mapping[str, Any]) -> Files:
    """The entries that a MANIFEST.json points to. Raises InputError where their file is damaged or not there."""
    path = folder / str(pointer["name"])
    try:
        stat = path.stat()
        return _read(path, str(pointer["sha256"]), stat.st_size, stat.st_mtime_ns)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: damaged ({error}); delete its folder to make it anew") from error


@lru_cache(maxsize=8)
def _read(path: Path, sha256: str, _size: int, _mtime_ns: int) -> Files:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError("its bytes are not those that its MANIFEST.json names")
    return Files(pq.ParquetFile(pa.BufferReader(data)).read())  # not by pq.read_table, which imports pandas: .2 s
