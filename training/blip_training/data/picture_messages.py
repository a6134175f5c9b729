"""Messages between PictureProcesses and its children: two byte strings each, over a pipe."""

from __future__ import annotations

import struct
from typing import IO

BUFFER_BYTES = 262_144
"""Of each end of a pipe: a picture of the web and what is made of it go through in one call of the system."""

_SIZES = struct.Struct("<QQ")


def write_message(stream: IO[bytes], first: bytes, second: bytes = b"") -> None:
    """Write one message, in one piece: each write is a call of the system."""
    stream.write(b"".join((_SIZES.pack(len(first), len(second)), first, second)))
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[bytes, bytes]:
    """Read one message. Raises EOFError if the stream ends within it."""
    head = stream.read(_SIZES.size)
    if len(head) < _SIZES.size:
        raise EOFError
    first, second = _SIZES.unpack(head)
    content = stream.read(first + second)
    if len(content) < first + second:
        raise EOFError
    return content[:first], content[first:]
