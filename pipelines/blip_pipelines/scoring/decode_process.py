"""What a decoding process does: pixels on standard output of each picture that comes on standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from blip_bootstrap.errors import InputError
from blip_training.data.decode import decode_image, squash

LENGTH_BYTES = 8

DECODED, BROKEN = b"d", b"b"


def serve(sizes: Iterable[int]) -> None:
    """Answer until the input ends: DECODED and uint8 [3, size, size] for each of `sizes` (px), or BROKEN alone."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what else is printed must not get between
    while head := sys.stdin.buffer.read(LENGTH_BYTES):
        encoded = sys.stdin.buffer.read(int.from_bytes(head, "little"))
        try:
            image = decode_image(encoded, "the picture")
        except InputError:
            answers.write(BROKEN)
        else:
            answers.write(DECODED)
            for size in sizes:
                answers.write(squash(image, size).data)
        answers.flush()


if __name__ == "__main__":
    serve([int(size) for size in sys.argv[1:]])
