"""Webdataset shards: which pictures a tar file has, where in it, and what stands beside them."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from blip_bootstrap.reading.json_files import parse_json
from blip_pipelines.bring.opened import open_in_order
from blip_pipelines.bring.origin import Origin, Source
from blip_pipelines.bring.texts import Found

PICTURE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")

TEXT_ENDINGS = ("txt", "text", "caption")

MOST_TEXT_BYTES = 16 << 20
"""A text or JSON member of more bytes is none of a picture's, and is not read."""

DAMAGED = (tarfile.TarError, EOFError, OSError, zlib.error, pa.ArrowException)

Span = tuple[int, int]


def found_in_tar(source: Source) -> Iterator[Found]:
    """The samples of a shard, by webdataset's own rules: members of one name, up to its first dot, are one sample.

    The pictures themselves are not read. A sample without a picture, and the place where a damaged file breaks off,
    come out with a mistake.
    """
    from webdataset.tariterators import group_by_keys  # imports torch: seconds that other formats do not need

    damage, seen = list[str](), Counter[str]()

    def is_noted(error: Exception) -> bool:
        damage.append(f"{source.name}: {str(error.args[0] if error.args else error).splitlines()[0][:200]}")
        return True

    for sample in group_by_keys(_members(source, damage), handler=is_noted):
        key = sample["__key__"]
        seen[key] += 1
        yield _found(source, key if seen[key] == 1 else f"{key}#{seen[key]}", sample)
    for at, mistake in enumerate(damage):
        yield Found(f"damage-{at}", None, {}, mistake=mistake)


def _members(source: Source, damage: list[str]) -> Iterator[dict[str, Any]]:
    """The members as webdataset's functions pass them on, with a picture's place for its bytes."""
    try:
        with open_in_order(Path(source.path)) as stream:
            is_plain = isinstance(stream, io.BufferedReader) and stream.seekable()
            with tarfile.open(fileobj=stream, mode="r:" if is_plain else "r|") as tar:
                for member in tar:
                    tar.members = []  # type: ignore[attr-defined]  # the list would grow with the archive
                    ending = member.name.rpartition(".")[2].lower()
                    if not member.isreg() or member.name.rpartition("/")[2].startswith("._"):
                        continue
                    content: Span | bytes | None = None
                    if ending in PICTURE_ENDINGS:
                        content = member.offset_data, member.size
                    elif ending in (*TEXT_ENDINGS, "json") and member.size <= MOST_TEXT_BYTES:
                        file = tar.extractfile(member)
                        content = file.read() if file else b""
                    if content is not None:
                        yield {"fname": member.name, "data": content, "__url__": source.name}
                if is_plain and (left := stream.seek(0, io.SEEK_END) % tarfile.BLOCKSIZE):
                    raise EOFError(f"its last block has {left} of {tarfile.BLOCKSIZE} bytes")
    except DAMAGED as error:
        damage.append(f"{source.name}: the tar file is damaged or cut ({error})")


def _found(source: Source, key: str, sample: dict[str, Any]) -> Found:
    members = {name: value for name, value in sample.items() if not name.startswith("__")}
    spans = [value for value in members.values() if isinstance(value, tuple)]
    texts = [
        _text(v) for name, v in members.items() if isinstance(v, bytes) and name.rpartition(".")[2] in TEXT_ENDINGS
    ]
    record, mistake = _record(source, key, members, bool(texts))
    if not spans:
        return Found(key, None, record, _lines(texts), mistake or f"{source.name}: {key} has no picture")
    origin = Origin(source.entry, source.name, at=spans[0][0], size=spans[0][1])
    return Found(key, origin, record, _lines(texts), mistake)


def _record(source: Source, key: str, members: dict[str, Any], has_texts: bool) -> tuple[dict[str, Any], str | None]:
    """The JSON member; a mistake where it is damaged and no text stands beside it."""
    body = next((value for name, value in members.items() if name.rpartition(".")[2] == "json"), None)
    if body is None:
        return {}, None
    try:
        value = parse_json(_text(body))
    except ValueError as error:
        return {}, None if has_texts else f"{source.name}: {key}: its JSON is damaged ({error})"
    return (value, None) if isinstance(value, dict) else ({"captions": value}, None)


def _text(body: bytes) -> str:
    return body.decode("utf-8-sig", "replace")


def _lines(texts: list[str]) -> list[str]:
    """Each line of a text file is a text."""
    return [line.strip() for text in texts for line in text.split("\n") if line.strip()]
