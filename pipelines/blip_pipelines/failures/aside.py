"""Does work in a child process that may die of it: what killed a worker is found here, row by row.

A batch that ends the child, hangs it or fills its memory is done again one row at a time, each in a child that lives.
The row that ends a child twice when it is alone is the one. That costs one start of the child for the batch and two for
the row; halving the batch would cost a start for each halving, and starts, in which models are loaded, take longest.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import struct
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from blip_bootstrap.errors import RunFailed
from blip_bootstrap.machine import free_bytes
from blip_bootstrap.progress import tell
from blip_pipelines.failures.errors import Raised, packed, unpacked
from blip_pipelines.failures.limits import Limits, Pace, held_bytes
from blip_training.runtime.child_process import Child, how_it_ended, start_child, stop_child

CHECK_S = 0.2

TRIES = 2
"""A row that ends its child so often when alone in it is left out: once may be somebody else's kill."""

MEMORY_SHARE = 0.8
"""Of the memory that is free when a child starts, it may hold so much where no limit is set."""

START_TIMEOUT_S = 1_800.0
"""For loading models over a slow network."""

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl(2)."""

_SIZE = struct.Struct("<Q")

Row = TypeVar("Row")

Make = Callable[[], Callable[[Any], Any]]
"""Makes, in the child, the function that does a piece of work; all of it can be pickled and imported."""


class Died(Exception):  # noqa: N818 - it names an outcome
    """The child ended: `reason` is a value of DEATHS (schemas/closed_lists.py), the message says it in words."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class Aside:
    """A child process that does pieces of work for the step `step`; `num_deaths` counts those that it died of.

    It is started when it is first needed, and ends with this object, and with the process that made it.
    """

    def __init__(self, step: str, make: Make, limits: Limits) -> None:
        self._step, self._make, self._limits = step, pickle.dumps(make), limits
        self._held: list[Child] = []
        self.num_deaths = 0
        weakref.finalize(self, _end, self._held)

    @property
    def pid(self) -> int | None:
        """The child's process, while there is one."""
        return self._held[0].pid if self._held else None

    def close(self) -> None:
        """End the child; the next piece of work starts another one."""
        _end(self._held)

    def __call__(self, piece: Any, num_rows: int = 1) -> Any:
        """What the child makes of `piece`, which is so many rows. Raises Died, or what the work raised."""
        if not self._held:
            self._start()
        seconds, started = self._pace.limit_s(num_rows), time.monotonic()
        try:
            answer = self._ask(pickle.dumps(piece), seconds)
        except Died:
            self.num_deaths += 1
            raise
        self._pace.note(num_rows, time.monotonic() - started)
        return answer

    def each(self, rows: Sequence[Row], num_together: int) -> Iterator[tuple[list[Row], Any]]:
        """Rows, so many together, and what the child makes of them; of a row that ends it, alone, the Died."""
        for at in range(0, len(rows), num_together):
            batch = list(rows[at : at + num_together])
            try:
                yield batch, self(batch, len(batch))
            except Died as died:
                tell(f"  {self._step}  {died}, at {len(batch)} rows; they are done one by one")
                for row in batch:
                    yield [row], self._alone(row)

    def _alone(self, row: Row) -> Any:
        for _ in range(TRIES):
            try:
                return self([row])
            except Died as error:
                died = error
        return died

    def _start(self) -> None:
        self._pace = Pace(self._limits.row_timeout_s)
        self._memory_bytes = self._limits.memory_bytes or int(MEMORY_SHARE * free_bytes())
        self._held.append(start_child(__name__, str(os.getpid())))
        try:
            self._ask(self._make, START_TIMEOUT_S)
        except Died as died:
            raise RunFailed(f"{self._step}: a process of its own does not start: {died}; run again to go on") from died

    def _ask(self, content: bytes, seconds: float) -> Any:
        (child,) = self._held
        assert child.stdin
        try:
            _write(child.stdin, content)
            answer = pickle.loads(self._read(child, time.monotonic() + seconds, seconds))
        except (EOFError, OSError):
            code = stop_child(child)
            self._held.clear()
            reason = "out_of_memory" if code == -signal.SIGKILL else "crashed"
            raise Died(reason, f"the process {how_it_ended(code)}") from None
        except BaseException:  # what is asked would be answered later, in the place of another answer
            stop_child(child)
            self._held.clear()
            raise
        if isinstance(answer, Raised):
            if answer.name == "MemoryError":
                raise Died("out_of_memory", "the process had no memory")
            raise unpacked(self._step, answer)
        return answer

    def _read(self, child: Child, until: float, seconds: float) -> bytes:
        """One message. Raises EOFError where the child ends within it, Died where it takes too long or too much."""
        assert child.stdout
        content = bytearray()
        while len(content) < _SIZE.size or len(content) < _SIZE.size + _SIZE.unpack_from(content)[0]:
            if select.select([child.stdout], [], [], CHECK_S)[0]:
                if not (more := os.read(child.stdout.fileno(), 1 << 20)):
                    raise EOFError
                content += more
            elif (held := held_bytes(child.pid)) > self._memory_bytes:
                raise Died("out_of_memory", f"the process held {held / 1e9:.1f} GB of memory")
            elif time.monotonic() > until:
                raise Died("hung", f"the process was not done after {seconds:.0f} s (ray.row_timeout_s)")
        return bytes(content[_SIZE.size :])


def _end(held: list[Child]) -> None:
    while held:
        stop_child(held.pop())


def _end_with(parent: int) -> None:
    """Have Linux kill this process when the thread that started it ends: one that hangs reads no end of its input."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it had ended before


def _write(stream: IO[bytes], content: bytes) -> None:
    stream.write(_SIZE.pack(len(content)))
    stream.write(content)
    stream.flush()


def serve() -> None:
    """The child's main function: make the work, then do the pieces that come on standard input, until that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with(int(sys.argv[1]))
    with suppress(OSError):  # Linux's: where memory runs out, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints must not get between the answers
    do: Callable[[Any], Any] | None = None
    while head := asked.read(_SIZE.size):
        content = pickle.loads(asked.read(_SIZE.unpack(head)[0]))
        answer: Any = None
        try:
            if do is None:
                do = content()
            else:
                answer = do(content)
        except Exception as error:  # noqa: BLE001 - raised by the parent
            answer = packed(error)
        _write(answers, pickle.dumps(answer))


if __name__ == "__main__":
    from blip_pipelines.failures import aside  # what is pickled here is known by this module's own name

    aside.serve()
