"""Reads pictures that are there already, for rows of the table `shard`, into rows of the table `images`."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from blip_bootstrap.config import PictureSource
from blip_bootstrap.errors import InputError, RunFailed
from blip_bootstrap.schemas.tables import IMAGES
from blip_pipelines.bring.opened import open_at_random, open_in_order, packing_of
from blip_pipelines.bring.origin import Origin
from blip_pipelines.bring.parquet import ParquetPictures
from blip_pipelines.bring.sources import entry_folder, join
from blip_pipelines.bring.tars import DAMAGED
from blip_training.data.decode import PictureError

THREADS = 4

ROWS_AHEAD = 64
"""Pictures that are read before they are stored: a bound on memory, and less than ParquetPictures holds."""

MOST_FILES = 8
"""Files that are open at once; a part has pictures of few."""

Row = dict[str, Any]

Store = Callable[[bytes], tuple[dict[str, Any], bytes]]

_EMPTY: Row = dict.fromkeys(IMAGES.schema.names)


def is_brought(row: Row) -> bool:
    """Whether a row of the table `shard` is of a picture that is there, and not of one that an earlier row has."""
    return bool(row.get("origin")) and row["status"] is None and not row.get("same_as")


def bring_rows(rows: Sequence[Row], entries: Sequence[PictureSource], store: Store, max_bytes: int) -> Iterator[Row]:
    """Read the pictures of `rows` of the table `shard`; yields rows of the table `images`, in the same order.

    `store` makes of a picture's bytes what is stored. A file of more than `max_bytes` is not read.
    """
    left = iter(rows)
    with Pictures(entries, max_bytes) as pictures, ThreadPoolExecutor(THREADS, thread_name_prefix="bring") as pool:
        while chunk := list(islice(left, ROWS_AHEAD)):
            yield from pool.map(lambda row: _brought(row, pictures, store), chunk)


def _brought(row: Row, pictures: Pictures, store: Store) -> Row:
    origin = Origin.of_json(row["origin"])
    row = {**_EMPTY, **row}
    try:
        body = pictures[origin]
    except PictureError as error:
        return row | _failed("failed_to_download", error)
    digest = hashlib.sha256(body).hexdigest()
    row["size_bytes"] = len(body)
    row["sha256"] = digest if origin.checked else origin.sha256 or digest
    if origin.checked and digest != origin.sha256:
        said = f"the bytes have the sha256 {digest}, the record says {origin.sha256}"
        return row | _failed("failed_to_download", PictureError("wrong_digest", said))
    try:
        columns, jpg = store(body)
    except PictureError as error:
        return row | _failed("failed_to_resize", error)
    return row | {"status": "success"} | columns | {"jpg": jpg}


def _failed(status: str, error: PictureError) -> Row:
    return {"status": status, "error_class": error.error_class, "error_message": error.message}


MOST_TIMES = 100
"""Pictures hardly shrink in a packed tar; one that grows to more than so many times its bytes would fill a disk."""


class Pictures:
    """The bytes of pictures, by where they lie; several threads may ask."""

    def __init__(self, entries: Sequence[PictureSource], max_bytes: int) -> None:
        self._folders: Mapping[str, Path] = {one.name: one.image_root or entry_folder(one) for one in entries}
        self._shards: Mapping[str, Path] = {one.name: entry_folder(one) for one in entries}
        self._open: dict[str, Any] = {}
        self._lock, self._most, self._scratch = threading.Lock(), max_bytes, tempfile.TemporaryDirectory("bring")

    def __getitem__(self, origin: Origin) -> bytes:
        """The bytes of a picture. Raises PictureError where there are none, or too many."""
        if origin.entry not in self._shards:
            raise PictureError("other", f"download.pictures has no entry {origin.entry} any more")
        if (origin.size or 0) > self._most:
            raise PictureError("too_many_bytes", f"{origin.size:,} bytes; at most {self._most:,} (max_bytes)")
        try:
            return self._read(origin)
        except (*DAMAGED, InputError, RunFailed) as error:
            raise PictureError("other", f"{origin.file}: cannot be read ({' '.join(str(error).split())})") from error

    def _read(self, origin: Origin) -> bytes:
        if origin.row is not None:
            path = join(self._shards[origin.entry], origin.file)
            with self._lock:
                body = self._opened(origin, lambda: ParquetPictures(path, origin.column or ""))[origin.row]
            if body is None:
                raise PictureError("other", "the record has no picture")
            return bytes(body)
        if origin.at is not None and origin.size is not None:
            path = join(self._shards[origin.entry], origin.file)
            with self._lock:
                body = self._opened(origin, lambda: self._tar(path)).read_at(origin.size, origin.at)
            if len(body) < origin.size:
                raise PictureError("truncated_image", f"{origin.file} breaks off in it")
            return bytes(body)
        with open_at_random(join(self._folders[origin.entry], origin.file)) as file:
            if file.size() > self._most:
                raise PictureError("too_many_bytes", f"{file.size():,} bytes; at most {self._most:,} (max_bytes)")
            return bytes(file.read())

    def _opened(self, origin: Origin, make: Callable[[], Any]) -> Any:
        name = f"{origin.entry}/{origin.file}/{origin.column}"
        if name not in self._open:
            while len(self._open) >= MOST_FILES:
                self._open.pop(next(iter(self._open))).close()
            self._open[name] = make()
        return self._open[name]

    def _tar(self, path: Path) -> pa.NativeFile:
        """A tar file; one that is packed is unpacked to a temporary file, since its pictures cannot be found in it.

        No more than `MOST_TIMES` its bytes: what comes after is cut, as after damage.
        """
        file = open_at_random(path)
        if packing_of(file.read_at(8, 0)) is None:
            return file
        left = MOST_TIMES * file.size()
        file.close()
        with (
            suppress(*DAMAGED),  # what comes before the damage is there; a picture beyond it is cut
            tempfile.NamedTemporaryFile(dir=self._scratch.name, delete=False) as whole,
            open_in_order(path) as stream,
        ):
            while left > 0 and (piece := stream.read(min(left, 1 << 20))):
                left -= whole.write(piece)
        return pa.OSFile(whole.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for one in self._open.values():
            one.close()
        self._scratch.cleanup()
