"""Webdataset shards: a tar file of one `jpg`, `txt` and `json` member for each picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from blip_pipelines.export.documents import documents, encode
from blip_pipelines.export.joined import Batch
from blip_pipelines.export.note import Done
from blip_pipelines.export.place import Hashed, Place

BLOCK, RECORD = 512, 10_240

FLUSH_BYTES = 1 << 20

SIZES = "sizes.json"
"""Pictures in each shard, by its name: where open_clip finds the number of its samples."""

_OWNER = b"0000444\0" + b"0000000\0" * 2
_TIME = b"00000000000\0"
_REST = (b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2).ljust(BLOCK - 156, b"\0")
_SUM = sum(_OWNER) + sum(_TIME) + sum(_REST) + 8 * ord(" ")


class _Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


def member(name: str, content: bytes) -> list[bytes]:
    """A file of a tar archive, in pieces: a ustar header (mode 0444, owner 0, time 0), the content, zeros to a block.

    `name` has at most 100 bytes, the content less than 8 GiB.
    """
    called, size = name.encode(), b"%011o\0" % len(content)
    header = called.ljust(100, b"\0") + _OWNER + size + _TIME
    check = b"%06o\0 " % (_SUM + sum(called) + sum(size))
    return [header + check + _REST, content, bytes(-len(content) % BLOCK)]


def write_members(out: _Sink | BinaryIO, batches: Iterator[Batch]) -> None:
    """A whole archive of the pictures, in order."""
    pieces: list[bytes] = []
    held = written = 0
    for batch in batches:
        for document, jpg in zip(documents(batch), batch.pictures, strict=True):
            key = document["key"]
            pieces += member(f"{key}.jpg", jpg)
            pieces += member(f"{key}.txt", document["caption"].encode())
            pieces += member(f"{key}.json", encode(document).encode())
            held += len(jpg)
            if held > FLUSH_BYTES:
                written += out.write(b"".join(pieces))
                pieces, held = [], 0
    written += sum(map(len, pieces)) + 2 * BLOCK
    pieces.append(bytes(2 * BLOCK + -written % RECORD))
    out.write(b"".join(pieces))


def write_tar(place: Place, name: str, batches: Iterator[Batch]) -> list[tuple[str, int, str]]:
    """Write a shard; its name, bytes and sha256."""
    with place.staged(f"{name}.tar") as staged, Hashed(staged) as out:
        write_members(out, batches)
    return [(f"{name}.tar", out.size_bytes, out.sha256)]


def write_stats(place: Place, done: Done) -> None:
    """Leave counts beside a shard under img2dataset's names, without times, so that two exports have the same bytes."""
    pictures = done.counts["pictures"]
    told = {"count": pictures, "successes": pictures, "failed_to_download": 0, "failed_to_resize": 0}
    content = {**told, "status_dict": {"success": pictures}, **done.counts}
    place.write(f"{done.name}_stats.json", (json.dumps(content, indent=1) + "\n").encode())
