"""Unpacks bodies that servers compress although `Accept-Encoding: identity` was sent, within a limit of bytes."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from blip_pipelines.fetch.deadlines import FetchError

GZIP_MAGIC = b"\x1f\x8b"

GZIP, ZLIB, RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS

MAX_CODINGS = 3

MAX_MEMBERS = 64
"""The most gzip members of one body: unpacking each copies all the bytes after it."""

UNREADABLE = ("br", "zstd", "compress", "dcb", "dcz")


def codings_of(values: Sequence[str]) -> list[str]:
    """The compressions that Content-Encoding headers name, lower case, in the order in which they were applied.

    Values that are no compression, which some servers send (`none`, `binary`, `utf-8`), are left out.
    """
    named = [name.strip().lower().removeprefix("x-") for value in values for name in value.split(",")]
    return [name for name in named if name in ("gzip", "deflate", *UNREADABLE)]


def unpack(body: bytes, codings: Sequence[str], max_bytes: int) -> bytes:
    """The uncompressed body; `codings` are those of `codings_of`. A body that is not compressed is returned unchanged.

    Raises FetchError: too_many_bytes where it unpacks to more than `max_bytes`, truncated_image where it is damaged or
    ends too early, other for a compression that cannot be read.
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
    """Unpack `deflate`: in zlib's format as the standard says, or raw as some servers send it; else unchanged."""
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
        rest = unpacker.unused_data  # the next gzip member, or padding
        if not rest.startswith(GZIP_MAGIC):
            return bytes(found)
    raise FetchError("other", f"the packed body has more than {MAX_MEMBERS} members")
