"""Counts of work under way, collected from workers and shown as progress."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from blip_bootstrap.progress import Progress, never_failing

POLL_S = 0.5


class Counts(Protocol):
    """Where workers report their counts: a Tally in this process, or a RemoteTally that a Ray actor holds."""

    def put(self, unit: str, counts: dict[str, int]) -> None:
        """Replace the counts of `unit`, a piece of work."""

    def total(self) -> dict[str, int]:
        """The sum over all units."""

    def add_up(self, units: Iterable[str]) -> None:
        """These units are done: their counts are kept as a sum alone."""

    def forget(self) -> None:
        """Drop all counts."""


class Tally:
    """The latest counts of each unit of work; a unit that is done again, after a lost worker, replaces its own.

    What is kept does not grow with the work: units that are done are added up.
    """

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}
        self._done: Counter[str] = Counter()

    def put(self, unit: str, counts: dict[str, int]) -> None:
        """Replace the counts of `unit`, a piece of work."""
        self._counts[unit] = counts

    def total(self) -> dict[str, int]:
        """The sum over all units."""
        total = self._done.copy()
        for counts in self._counts.values():
            total.update(counts)
        return dict(total)

    def add_up(self, units: Iterable[str]) -> None:
        """These units are done: their counts are kept as a sum alone."""
        for unit in units:
            self._done.update(self._counts.pop(unit, {}))

    def all_done(self) -> None:
        """All units are done."""
        self.add_up(list(self._counts))

    def forget(self) -> None:
        """Drop all counts."""
        self._counts.clear()
        self._done.clear()


@contextmanager
def shown(progress: Progress, tally: Counts, before: dict[str, int]) -> Iterator[None]:
    """Show the tally's sum plus `before` (what an earlier run had done) in `progress` while the body runs.

    A count named like the progress's unit moves the bar; the others are shown beside it. Where the tally cannot be
    reached, as after the death of its actor, the body runs on without a word of progress.
    """
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(POLL_S):
            _show(progress, tally, before)

    thread = threading.Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield
        stop.set()
        thread.join()
        _show(progress, tally, before)
        with never_failing():
            tally.forget()
    finally:
        stop.set()
        thread.join()


def _show(progress: Progress, tally: Counts, before: dict[str, int]) -> None:
    with never_failing():
        counts = Counter(before)
        counts.update(tally.total())
        done = counts.pop(progress.unit, 0)
        progress.update(done, **{name.replace("_", " "): count for name, count in sorted(counts.items()) if count})
