"""Bodies that come compressed although they were asked for as they are: unpacked within a limit."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from blip_pipelines.ingest.deadlines import FetchError

GZIP_MAGIC = b"\x1f\x8b"

GZIP, ZLIB, RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS

MAX_CODINGS = 3

MAX_MEMBERS = 64
"""Gzip members of one body: each costs a copy of all that follows it."""

UNREADABLE = ("br", "zstd", "compress", "dcb", "dcz")


def codings_of(values: Sequence[str]) -> list[str]:
    """The codings of Content-Encoding headers, in the order in which they were applied, lower case.

    What is not a coding at all (`none`, `binary`, `utf-8`: servers write such) is left out.
    """
    named = [name.strip().lower().removeprefix("x-") for value in values for name in value.split(",")]
    return [name for name in named if name in ("gzip", "deflate", *UNREADABLE)]


def unpack(body: bytes, codings: Sequence[str], max_bytes: int) -> bytes:
    """`body` without its codings (`codings_of`); one that is not what they say, as it is.

    Raises FetchError: too_many_bytes where more than `max_bytes` come out at any stage, truncated_image where a
    packed body ends too early or is damaged, other for a coding that cannot be read.
    """
    if len(codings) > MAX_CODINGS or set(codings) & set(UNREADABLE):
        raise FetchError("other", f"Content-Encoding {', '.join(codings)}: it was not asked for, and is not unpacked")
    for coding in reversed(codings):
        if body.startswith(GZIP_MAGIC):
            body = _inflate(body, GZIP, max_bytes)
        elif coding == "deflate" and body:
            body = _inflate_deflate(body, max_bytes)
    return body


def _inflate_deflate(body: bytes, max_bytes: int) -> bytes:
    """A body that is called `deflate`: zlib's format, as it should be, or bare, as some servers have it, or neither."""
    if body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0:
        return _inflate(body, ZLIB, max_bytes)
    try:
        return _inflate(body, RAW, max_bytes)
    except FetchError as error:
        if error.error_class == "too_many_bytes":
            raise
        return body


def _inflate(body: bytes, window: int, max_bytes: int) -> bytes:
    found, rest = bytearray(), body
    for _ in range(MAX_MEMBERS):
        unpacker = zlib.decompressobj(window)
        try:
            found += unpacker.decompress(rest, max_bytes + 1 - len(found))
        except zlib.error as error:
            raise FetchError("truncated_image", f"the packed body is damaged ({error})") from error
        if len(found) > max_bytes:
            raise FetchError("too_many_bytes", f"the body unpacks to more than {max_bytes:,} bytes")
        if not unpacker.eof:
            raise FetchError("truncated_image", f"the packed body ends too early, {len(found):,} bytes unpacked")
        rest = unpacker.unused_data  # another member of the same body, or padding
        if not rest.startswith(GZIP_MAGIC):
            return bytes(found)
    raise FetchError("other", f"the packed body has more than {MAX_MEMBERS} members")
