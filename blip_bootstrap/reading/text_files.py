"""Text files as users have them: compressed or not, of several encodings and line ends."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from blip_bootstrap.errors import InputError

HEAD_BYTES = 65_536
"""Bytes at a file's beginning from which encoding and line ends are told."""

COMPRESSED_ENDINGS = (".gz", ".bz2", ".xz", ".zst")


def _zstd(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", pa.input_stream(str(path), compression="zstd"))


_COMPRESSED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": _zstd,
}

_REFUSED = {
    b"PK\x03\x04": "a ZIP archive (as spreadsheets are, too); give the list in it, as TSV or CSV",
    b"PAR1": "a Parquet file; let its name end in .parquet",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"SQLite": "a database; give its table, as TSV or CSV",
    b"version https://git-lfs.": "a Git LFS pointer, and not the list; fetch it with `git lfs pull`",
    b"<!DOCTYPE": "a web page, and no list",
    b"<!doctype": "a web page, and no list",
    b"<html": "a web page, and no list",
}

_MARKS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    r"""A text file, opened for reading by lines.

    It is decompressed where its first bytes are those of gzip, bzip2, xz or Zstandard, whatever its name. Its encoding
    is UTF-8, or UTF-16 or UTF-32 where it begins with their mark; invalid bytes become U+FFFD. A line ends at "\n"
    alone, since texts hold U+2028, U+0085 and the like; where the first line ends at "\r", all do. Raises InputError
    where the file is not there, is damaged, or is not text.
    """
    try:
        with _open_bytes(path) as stream:
            head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
            encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), "utf-8-sig")
            _check_text(path, head, encoding)
            newline = _newline(head.decode(encoding, "replace"))
            with io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline=newline) as text:
                yield text
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: the compressed file is damaged or cut ({error}); fetch or pack it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _open_bytes(path: Path) -> io.BufferedReader:
    with path.open("rb") as stream:
        start = stream.read(8)
    opener = next((opener for magic, opener in _COMPRESSED.items() if start.startswith(magic)), None)
    return io.BufferedReader(opener(path) if opener else path.open("rb", buffering=0), HEAD_BYTES)


def _check_text(path: Path, head: bytes, encoding: str) -> None:
    """Raise InputError, saying what the file is, where its beginning is not that of a text."""
    for magic, what in _REFUSED.items():
        if head.startswith(magic):
            raise InputError(f"{path}: is {what}")
    if encoding == "utf-8-sig" and head.count(0) * 20 > len(head):
        raise InputError(f"{path}: is no text of UTF-8 (many of its bytes are zero); save it as UTF-8")


def _newline(head: str) -> str | None:
    """The `newline` of `open`: None, which is any line end, where the first line ends at a carriage return."""
    return None if "\r" in head.split("\n", 1)[0].rstrip("\r") else "\n"


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines without their ends, each with its number from 1. Raises InputError as `open_text` does."""
    with open_text(path) as stream:
        for number, line in enumerate(stream, start=1):
            yield number, line.rstrip("\r\n")


def plain_suffix(path: Path) -> str:
    """The ending that tells the format, in lower case and without a compression's: `.tsv` for `web.TSV.gz`."""
    plain = path.with_suffix("") if path.suffix.lower() in COMPRESSED_ENDINGS else path
    return plain.suffix.lower()
