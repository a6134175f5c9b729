"""Progress of long work: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

log = logging.getLogger(__name__)

Say = Callable[[str], None]
"""Takes a line of progress."""


def quiet(line: str) -> None:
    """Show no progress."""


_failures: set[str] = set()
"""What has failed to be shown: a log has one line of each kind, not one for every half second of a night."""


@contextmanager
def never_failing() -> Iterator[None]:
    """A context for what only tells about work: an error in it, as of a closed terminal, is one line of the log."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the work that is told about goes on
        kind = type(error).__name__
        if kind not in _failures:
            _failures.add(kind)
            with suppress(Exception):  # where standard error is closed, logging has nowhere to write to
                log.warning("progress cannot be shown (%s: %s); the work goes on", kind, " ".join(str(error).split()))


def tell(line: str) -> None:
    """Write a line to standard error, where there is one."""
    with never_failing():
        sys.stderr.write(f"{line}\n")


class _Terminal(Console):
    """Standard error as rich writes to it."""

    def on_broken_pipe(self) -> None:
        """Show nothing more, where rich would end the process."""
        self.quiet = True


_open: list[Progress] = []
"""Those that this process shows now, the newest last."""


def told_now() -> dict[str, Any] | None:
    """What is at work in this process by its newest Progress, as `Progress.told`; None where none is open."""
    newest = _open[-1:]  # in one step: another thread may be closing it
    return newest[0].told() if newest else None


PLAIN_INTERVAL_S = 30.0
"""Least time between two lines in a log file; no line is written while nothing changes."""


class Progress:
    """A live line that shows work done, rate, time left and figures; a context manager.

    Where it cannot be shown, as on a terminal that was closed, the work goes on without it.

    >>> with Progress("captions", total=3, unit="images") as progress:
    ...     progress.advance(3, kept=2)
    """

    def __init__(self, name: str, total: int | None, unit: str = "rows") -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self.figures: dict[str, str | int | float] = {}
        self.started = time.monotonic()
        self._before = 0
        self._console, self._live = _Terminal(stderr=True), None
        with never_failing():
            if sys.stderr.isatty():
                self._live = Live(Text(name), console=self._console, transient=True)
        self._last_plain = self.started
        self._shown = self._state()
        self._printed: tuple[object, ...] | None = None

    def __enter__(self) -> Progress:
        _open.append(self)
        with never_failing():
            if self._live:
                self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self in _open:
            _open.remove(self)
        with never_failing():
            if self._live:
                self._live.stop()
            if kind is None and self._printed != self._state():
                self._print()

    def begin(self, done: int) -> None:
        """Start from `done` that an earlier run did: they count as done, but not in the rate and the time left."""
        self.done = self._before = done
        self.started = time.monotonic()
        self._shown = self._state()

    def advance(self, count: int = 1, **figures: str | int | float) -> None:
        """Add `count` to what is done; `figures` replace the ones shown before."""
        self.update(self.done + count, **figures)

    def update(self, done: int, **figures: str | int | float) -> None:
        """Set what is done in all; it may be less than an earlier run did, where some of its work was lost."""
        if done < self._before:
            self.begin(done)
        self.done = done
        self.figures = self.figures | figures  # another one: `told` reads it from another thread
        with never_failing():
            self._show(time.monotonic())

    def _show(self, now: float) -> None:
        if self._live:
            self._live.update(Text(self.line()))
        elif now - self._last_plain >= PLAIN_INTERVAL_S and self._state() != self._shown:
            self._last_plain, self._shown = now, self._state()
            self._printed = self._shown
            self._print()

    def _print(self) -> None:
        self._console.print(self.line(), highlight=False, soft_wrap=True)

    def _state(self) -> tuple[object, ...]:
        """All that a line shows, except for the time that went by."""
        return self.done, *self.figures.items()

    @property
    def rate(self) -> float:
        """Units a second, of this run's work alone."""
        return max(0, self.done - self._before) / max(time.monotonic() - self.started, 1e-6)

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the rest takes at this rate; None where that cannot be told."""
        is_known = self.total and self.rate and self.done < self.total
        return ((self.total or 0) - self.done) / self.rate if is_known else None

    def told(self) -> dict[str, Any]:
        """What a line shows, for a program: `name`, `unit`, `done`, `total`, `per_second`, `seconds_left`, `counts`."""
        return {
            "name": self.name, "unit": self.unit, "done": self.done, "total": self.total,
            "per_second": round(self.rate, 4), "seconds_left": self.seconds_left, "counts": self.figures,
        }  # fmt: skip

    def line(self) -> str:
        """The line as text: name, done/total, rate, time, figures; rate and time left are of this run's work alone."""
        seconds = max(time.monotonic() - self.started, 1e-6)
        of_total = f"/{self.total:,}" if self.total else ""
        parts = [f"  {self.name}  {self.done:,}{of_total} {self.unit}", f"{self.rate:,.1f}/s", f"{seconds:.0f} s"]
        if (left := self.seconds_left) is not None:
            parts.append(f"{left:.0f} s left")
        parts += [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.figures.items()]
        return "  ".join(parts)
