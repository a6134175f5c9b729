"""Files of this machine or of a store as streams of bytes, unpacked where their first bytes say so."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from blip_bootstrap.reading.places import is_remote, store_and_name

MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

TAR_MAGIC = b"ustar"

TAR_MAGIC_AT = 257

_BUFFER_BYTES = 1 << 20


def open_at_random(path: Path) -> Any:
    """A file of which any bytes can be read: `read_at(count, offset)`. A store is asked for these bytes alone."""
    if not is_remote(path):
        return pa.OSFile(str(path.absolute()))
    store, name = store_and_name(path)
    return store.reader.open_input_file(f"{store.bucket}/{store.key(name)}")


@contextmanager
def open_in_order(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes, unpacked, to be read from their beginning on. What of this machine is not packed can seek."""
    raw: Any
    if is_remote(path):
        store, name = store_and_name(path)
        raw = store.reader.open_input_stream(f"{store.bucket}/{store.key(name)}")
    else:
        raw = path.open("rb", buffering=0)
    with raw, io.BufferedReader(raw, _BUFFER_BYTES) as stream:
        packed = packing_of(stream.peek(8)[:8])
        with _unpacked(stream, packed) if packed else nullcontext(stream) as bytes_of:
            yield cast("BinaryIO", bytes_of)


def _unpacked(stream: io.BufferedReader, packed: str) -> Any:
    if packed == "gzip":
        return gzip.GzipFile(fileobj=stream)
    if packed == "zstd":
        return pa.CompressedInputStream(pa.PythonFile(stream), packed)
    return bz2.BZ2File(stream) if packed == "bz2" else lzma.LZMAFile(stream)


def packing_of(start: bytes) -> str | None:
    """The compression that a file's first bytes tell; None for a file that is not packed."""
    return next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)


def first_bytes(path: Path, count: int = 512) -> bytes:
    """The first bytes of a file, unpacked; empty where it cannot be read."""
    try:
        with open_in_order(path) as stream:
            return stream.read(count)
    except (OSError, EOFError, lzma.LZMAError, pa.ArrowException):
        return b""


def is_tar(start: bytes) -> bool:
    """Whether the first 512 bytes of a file are those of a tar archive."""
    return start[TAR_MAGIC_AT : TAR_MAGIC_AT + 5] == TAR_MAGIC
