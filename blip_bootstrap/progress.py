"""Progress of long work: a live line on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_INTERVAL_S = 5.0


class Progress:
    """Counts done work and shows rate, ETA and any figures given with it; use as a context manager.

    >>> with Progress("captions", total=3, unit="images") as progress:
    ...     progress.advance(3, kept=2)
    """

    def __init__(self, name: str, total: int | None, unit: str = "rows") -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self.figures: dict[str, str | int | float] = {}
        self.started = time.monotonic()
        self._console = Console(stderr=True)
        self._live = Live(Text(name), console=self._console, transient=True) if sys.stderr.isatty() else None
        self._last_plain = self.started

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._live:
            self._live.stop()
        if kind is None:
            self._console.print(self.line(), highlight=False, soft_wrap=True)

    def advance(self, count: int = 1, **figures: str | int | float) -> None:
        """`count` more are done; `figures` replace the ones shown before."""
        self.update(self.done + count, **figures)

    def update(self, done: int, **figures: str | int | float) -> None:
        """`done` are done in all."""
        self.done = done
        self.figures.update(figures)
        if self._live:
            self._live.update(Text(self.line()))
        elif time.monotonic() - self._last_plain >= PLAIN_INTERVAL_S:
            self._last_plain = time.monotonic()
            self._console.print(self.line(), highlight=False, soft_wrap=True)

    def line(self) -> str:
        """The line as shown: name, done/total, rate, time, figures."""
        seconds = max(time.monotonic() - self.started, 1e-6)
        rate = self.done / seconds
        of_total = f"/{self.total:,}" if self.total else ""
        parts = [f"  {self.name}  {self.done:,}{of_total} {self.unit}", f"{rate:,.1f}/s", f"{seconds:.0f} s"]
        if self.total and self.done < self.total and self.done:
            parts.append(f"{(self.total - self.done) / rate:.0f} s left")
        parts += [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.figures.items()]
        return "  ".join(parts)
