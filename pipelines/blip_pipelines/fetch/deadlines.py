"""The deadline of a fetch, and the error of a fetch that failed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any


class FetchError(Exception):
    """A fetch that failed: its error class, whether to retry, and the server's Retry-After in seconds (`wait_s`).

    `said` (`directives.Said`) is what the host's files say about the URL, where that is why.
    """

    said: Any = None

    def __init__(self, error_class: str, message: str, retry: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.error_class, self.message, self.retry, self.wait_s = error_class, message, retry, wait_s


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock at which a fetch times out."""

    timeout_s: float
    end: float

    @classmethod
    def after(cls, timeout_s: float) -> Deadline:
        """The deadline `timeout_s` from now."""
        return cls(timeout_s, time.monotonic() + timeout_s)

    def remaining_s(self) -> float:
        """Seconds left, above 0. Raises FetchError (timeout) where there are none."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise FetchError("timeout", f"no whole answer within {self.timeout_s:g} s", retry=True)
        return left

    def sooner(self, timeout_s: float) -> Deadline:
        """The earlier of this deadline and one `timeout_s` from now."""
        other = Deadline.after(timeout_s)
        return other if other.end < self.end else self
