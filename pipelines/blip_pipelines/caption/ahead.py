"""Work begun one step ahead: the next batch is read and decoded while the models work on this one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items; before one is handed out the next is taken, which may begin work that goes on meanwhile."""
    before: list[Item] = []
    for item in items:
        yield from before
        before = [item]
    yield from before
