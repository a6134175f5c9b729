"""Parts of one batch computed side by side in threads of one process, which share its models."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, TypeVar

Part = TypeVar("Part")

Done = TypeVar("Done")


class Lanes:
    """So many threads, each of which enters `within()` for each part: torch's modes hold for one thread alone.

    What the parts are must not depend on the number of lanes. A part is then computed by the same operations with the
    same threads of torch wherever it runs, and its last digits do not depend on the number either.
    """

    def __init__(self, count: int, within: Callable[[], AbstractContextManager[Any]]) -> None:
        self._within = within
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="lane") if count > 1 else None

    def map(self, work: Callable[[Part], Done], parts: Iterable[Part]) -> list[Done]:
        """`work` on each part; the results in the order of the parts. Raises what the first part that fails raises."""
        return self.start(work, parts)()

    def start(self, work: Callable[[Part], Done], parts: Iterable[Part]) -> Callable[[], list[Done]]:
        """Begin `work` on the parts and return a function that waits for the results, in the order of the parts.

        With one lane nothing is begun: the function does the work when it is called.
        """
        if self._pool is None:
            return lambda: list(map(work, parts))
        begun = self._pool.map(self._enter, [(work, part) for part in parts])
        return lambda: list(begun)

    def _enter(self, task: tuple[Callable[[Part], Done], Part]) -> Done:
        work, part = task
        with self._within():
            return work(part)
