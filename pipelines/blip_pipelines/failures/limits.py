"""What a worker may take of time and memory: pictures that hang it, or fill its memory, must not stop a run."""

from __future__ import annotations

import faulthandler
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from blip_bootstrap.config import RayConfig
from blip_bootstrap.progress import tell

CHECK_S = 0.5

FIRST_ROWS = 10
"""A batch that is the first of its process may take as long as so many rows at least: kernels are built in it."""

PACE_FACTOR = 20
"""Later ones may take so many times what the slowest row before them took."""

GRACE_S = 30.0
"""So much later, or twice that, the process is ended by C code, where a library that hangs keeps the interpreter."""


@dataclass(frozen=True)
class Limits:
    """Seconds that a row may take before it counts as hanging, and memory that a process may hold (None: any)."""

    row_timeout_s: float = 60.0
    memory_bytes: int | None = None

    @staticmethod
    def of(config: RayConfig) -> Limits:
        """The limits that are set."""
        return Limits(config.row_timeout_s, config.worker_memory_bytes)


@dataclass
class Pace:
    """How long a batch may take, by how long those before it took."""

    row_timeout_s: float
    slowest_row_s: float = field(default=0.0, init=False)

    def limit_s(self, num_rows: int) -> float:
        """Seconds for a batch of so many rows: never less than for one row by the setting, nor more than for all."""
        if not self.slowest_row_s:
            return self.row_timeout_s * max(num_rows, FIRST_ROWS)
        measured = PACE_FACTOR * self.slowest_row_s * num_rows
        return max(self.row_timeout_s, min(measured, self.row_timeout_s * num_rows))

    def note(self, num_rows: int, seconds: float) -> None:
        """A batch was done in so many seconds."""
        if num_rows:
            self.slowest_row_s = max(self.slowest_row_s, seconds / num_rows)


class Watch:
    """Ends this process where a batch hangs, or where the process holds more memory than a worker may.

    A process that ended so has died of what it was at, as by a crash, and is replaced; the line says what it was. Time
    in which `waits` is true, as for a server that has time-outs of its own, does not count.
    """

    def __init__(
        self,
        what: str,
        limits: Limits,
        end: Callable[[int], object] = os._exit,
        waits: Callable[[], bool] = lambda: False,
    ) -> None:
        self._what, self._limits, self._end, self._waits = what, limits, end, waits
        self._pace = Pace(limits.row_timeout_s)
        self._until, self._armed_to = float("inf"), 0.0
        self._seconds = 0.0
        self._lock, self._done = threading.Lock(), threading.Event()

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """The thread that watches runs while the body does."""
        self._done.clear()
        thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        with Path(os.devnull).open("w") as self._nowhere:
            thread.start()
            try:
                yield self
            finally:
                self._done.set()
                thread.join()
                self._disarm()

    @contextmanager
    def batch(self, num_rows: int) -> Iterator[None]:
        """The body is a batch of so many rows; within `watching`."""
        started, seconds = time.monotonic(), self._pace.limit_s(num_rows)
        with self._lock:
            self._seconds = seconds
            self._begin(started)
        try:
            yield
        finally:
            with self._lock:
                self._until = float("inf")
        self._pace.note(num_rows, time.monotonic() - started)

    def _begin(self, now: float) -> None:
        """The batch may take its seconds from `now` on; C code ends this process if it is not told again in time.

        That is told for longer than the batch needs: it starts a thread, half of the time of rows of a millisecond.
        """
        self._until = now + self._seconds
        if self._until + GRACE_S > self._armed_to:
            faulthandler.dump_traceback_later(self._seconds + 2 * GRACE_S, exit=True, file=self._nowhere)
            self._armed_to = self._until + 2 * GRACE_S

    def _disarm(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._armed_to = 0.0

    def _watch(self) -> None:
        while not self._done.wait(CHECK_S):
            with self._lock:
                at_work = self._until != float("inf")
                if at_work and self._waits():
                    self._begin(time.monotonic())
                elif self._armed_to and not at_work:  # no batch: what comes may take any time
                    self._disarm()
            if time.monotonic() > self._until:
                self._leave(f"a batch is not done after {self._seconds:.0f} s (ray.row_timeout_s)")
            elif self._limits.memory_bytes and (held := held_bytes(os.getpid())) > self._limits.memory_bytes:
                self._leave(f"a worker holds {held / 1e9:.1f} GB of memory (ray.worker_memory_bytes)")

    def _leave(self, why: str) -> None:
        tell(f"  {self._what}  {why}; the same command goes on, and finds the row that does it")
        self._done.set()
        self._end(1)


def peak_held_bytes() -> int:
    """The most memory that this process and those below it ever held, in bytes, each for itself; 0 outside Linux."""
    pids, found = [os.getpid()], 0
    while pids:
        process = Path(f"/proc/{pids.pop()}")
        with suppress(OSError):  # one that has just ended
            status = (process / "status").read_text(encoding="utf-8", errors="replace").splitlines()
            found += sum(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
            for thread in (process / "task").iterdir():
                pids += map(int, (thread / "children").read_text(encoding="ascii").split())
    return found


def held_bytes(pid: int) -> int:
    """Memory that a process holds now, in bytes; 0 where it has ended, or the system is not Linux."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0
