"""Parquet with pictures in it: Hugging Face's image structs, img2dataset's column `jpg`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.known_names import find_name
from blip_pipelines.bring.opened import open_at_random
from blip_pipelines.bring.origin import Origin, Source
from blip_pipelines.bring.texts import Found

PICTURE_NAMES = ("jpg", "image", "jpeg", "png", "webp", "img", "picture", "image_bytes", "bytes")

ROWS_AT_ONCE = 2_000


def open_pictures(path: Path) -> pq.ParquetFile:
    """A Parquet file, of which a column of pictures is read in pieces. Raises InputError where it is none."""
    try:
        return pq.ParquetFile(open_at_random(path), buffer_size=1 << 20, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({' '.join(str(error).split())})") from error


def picture_column(schema: pa.Schema, wanted: str | None = None) -> str | None:
    """The column with the pictures' bytes: the `wanted` one, or the first that can be one; None where there is none."""
    able = [one.name for one in schema if _holds_bytes(one.type)]
    if wanted:
        return wanted if wanted in able else None
    structs = [name for name in able if pa.types.is_struct(schema.field(name).type)]
    return next(iter(structs), None) or find_name(able, PICTURE_NAMES)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(one.name == "bytes" and _holds_bytes(one.type) for one in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def found_in_parquet(source: Source, image_column: str | None) -> Iterator[Found]:
    """A picture for each row; the pictures themselves are not read. A damaged file ends with a mistake."""
    row = 0
    try:
        file = open_pictures(Path(source.path))
        column = picture_column(file.schema_arrow, image_column)
        if column is None:
            names = ", ".join(file.schema_arrow.names[:30])
            raise InputError(f"{source.name}: no column has pictures; its columns are: {names}; set image_column")
        for record in _records(file, column):
            key = _key(record, column, row)
            yield Found(key, Origin(source.entry, source.name, row=row, column=column), record)
            row += 1
    except (pa.ArrowException, OSError, InputError) as error:
        yield Found(f"damage-{row}", None, {}, mistake=f"{source.name}: row {row}: {' '.join(str(error).split())}")


def _records(file: pq.ParquetFile, column: str) -> Iterator[dict[str, Any]]:
    """The rows without their bytes; of an image struct its path."""
    schema = file.schema_arrow
    names = [one.name for one in schema if not _holds_bytes(one.type) and schema.names.count(one.name) == 1]
    if pa.types.is_struct(schema.field(column).type) and "path" in schema.field(column).type.names:
        names.append(f"{column}.path")
    if not names:
        yield from ({} for _ in range(file.metadata.num_rows))
        return
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=names):
        yield from batch.to_pylist()


def _key(record: dict[str, Any], column: str, row: int) -> str:
    """The key as given (`key`, webdataset's `__key__`), else the picture's own file name, else its row."""
    struct = record.pop(column, None)
    path = struct.get("path") if isinstance(struct, dict) else None
    name = find_name([*record], ["key", "__key__"])
    return str((record.pop(name) if name else None) or path or row)


class ParquetPictures:
    """The pictures of a Parquet file by their rows, quick where they are asked for nearly in order."""

    def __init__(self, path: Path, column: str, rows_at_once: int = 64, held: int = 8) -> None:
        self._file, self._column, self._size, self._most = open_pictures(path), column, rows_at_once, held
        self._held: dict[int, pa.Array] = {}
        self._next = 0
        self._batches: Iterator[pa.RecordBatch] | None = None

    def __getitem__(self, row: int) -> bytes | None:
        """The bytes of a row's picture; None where it has none. Raises ArrowException or OSError for a damaged file."""
        first = next((first for first, cells in self._held.items() if first <= row < first + len(cells)), None)
        if first is None:
            first = self._read_to(row)
        cell = self._held[first][row - first].as_py()
        return cell.get("bytes") if isinstance(cell, dict) else cell

    def _read_to(self, row: int) -> int:
        if self._batches is None or not self._next <= row < self._next + self._most * self._size:
            self._begin_at(row)
        for batch in self._batches or ():
            first, self._next = self._next, self._next + len(batch)
            self._held[first] = batch.column(0)
            while len(self._held) > self._most:
                del self._held[next(iter(self._held))]
            if row < self._next:
                return first
        raise pa.ArrowInvalid(f"there is no row {row}")

    def _begin_at(self, row: int) -> None:
        """Read from the group of rows on that has this one."""
        group, first = 0, 0
        sizes: Sequence[int] = [self._file.metadata.row_group(at).num_rows for at in range(self._file.num_row_groups)]
        while group + 1 < len(sizes) and first + sizes[group] <= row:
            group, first = group + 1, first + sizes[group]
        self._held.clear()
        self._next = first
        groups = range(group, len(sizes))
        self._batches = self._file.iter_batches(self._size, row_groups=groups, columns=[self._column])

    def close(self) -> None:
        """Close the file."""
        self._file.close(force=True)
