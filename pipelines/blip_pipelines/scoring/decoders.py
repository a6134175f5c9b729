"""Processes that decode pictures for a GPU.

Threads of the process that drives the GPU would wait for its interpreter lock, and it for them: on an H200 it captioned
300 pictures a second with two threads as with eight, and 565 where all were decoded beforehand.
"""

from __future__ import annotations

import signal
import weakref
from collections.abc import Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import IO

import torch
from torch import Tensor

from blip_bootstrap.errors import InputError
from blip_pipelines.failures.aside import Died
from blip_pipelines.scoring import decode_process
from blip_pipelines.scoring.decode_process import BROKEN, DECODED, LENGTH_BYTES
from blip_training.runtime.child_process import Child, how_it_ended, start_child, stop_child

Idle = SimpleQueue[Child]

ATTEMPTS = 2


class DecodeProcesses:
    """`count` processes, each of which makes pixels of one picture at a time, for models of these image sizes (px).

    They end with this object, and with the process that made it, however that ends.
    """

    def __init__(self, count: int, sizes: Iterable[int]) -> None:
        self._sizes = sorted(sizes)
        self._idle: Idle = SimpleQueue()
        for _ in range(count):
            self._idle.put(self._start())
        self._end = weakref.finalize(self, _end, self._idle)

    def pixels(self, encoded: bytes, where: str) -> dict[int, Tensor]:
        """Pixels of an encoded picture by image size, uint8 [3, size, size]; as many threads may call it at a time.

        Raises InputError, which names `where`, for bytes that are no picture, and Died where the process that has this
        picture dies twice.
        """
        process = self._idle.get()
        try:
            for _ in range(ATTEMPTS):
                with suppress(EOFError, OSError):
                    return self._ask(process, encoded, where)
                code = stop_child(process)
                process = self._start()
        finally:
            self._idle.put(process)
        reason = "out_of_memory" if code == -signal.SIGKILL else "crashed"
        raise Died(reason, f"the process that decodes {where} {how_it_ended(code)}, {ATTEMPTS} times")

    def close(self) -> None:
        """End the processes."""
        self._end()

    def _start(self) -> Child:
        return start_child(decode_process.__name__, *map(str, self._sizes))

    def _ask(self, process: Child, encoded: bytes, where: str) -> dict[int, Tensor]:
        assert process.stdin
        assert process.stdout
        pixels = {size: torch.empty((3, size, size), dtype=torch.uint8) for size in self._sizes}
        process.stdin.write(len(encoded).to_bytes(LENGTH_BYTES, "little"))
        process.stdin.write(encoded)
        process.stdin.flush()
        answer = process.stdout.read(1)
        if answer == BROKEN:
            raise InputError(f"{where}: the picture cannot be decoded")
        if answer != DECODED:
            raise EOFError
        for one in pixels.values():
            _fill(one.numpy().data.cast("B"), process.stdout)
        return pixels


def _fill(place: memoryview, stream: IO[bytes]) -> None:
    """Read as many bytes as `place` holds. Raises EOFError where they are fewer."""
    if stream.readinto(place) != len(place):  # type: ignore[attr-defined]  # a buffered reader, which reads on
        raise EOFError


def _end(idle: Idle) -> None:
    with suppress(Empty):
        while True:
            stop_child(idle.get_nowait())
