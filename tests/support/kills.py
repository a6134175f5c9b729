"""Runs something again and again, killed before each of its operations on names of files."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest


class Killed(BaseException):
    pass


OPERATIONS = ("rename", "replace", "symlink", "mkdir", "unlink", "rmdir")


@contextmanager
def killed_after(count: int) -> Iterator[list[int]]:
    """Each operation after the first `count` on names of files raises instead; how many there were."""
    left, done = [count], [0]

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **settings: Any) -> Any:
            if threading.current_thread().name == "note":  # of `status`: it writes at moments of its own
                return real(*arguments, **settings)
            if not left[0]:
                raise Killed
            left[0] -= 1
            done[0] += 1
            return real(*arguments, **settings)

        return operation

    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, guarded(getattr(os, name)))
        yield done


def every_kill(act: Callable[[], object], prepare: Callable[[], None]) -> Iterator[int]:
    """Do `act` again and again, killed after 0, 1, 2, ... operations, until it comes to its end."""
    for count in range(1000):
        prepare()
        with killed_after(count) as done:
            with suppress(Killed):
                act()
            if done[0] < count:
                return
        yield count
