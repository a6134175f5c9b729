"""A run's connection and audits, kept from one page to the next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import duckdb

from blip_bootstrap.audit.audits import Audits
from blip_bootstrap.query.views import connect


class OpenRun:
    """A run whose pages are being written; what one page asked of the same rounds is not asked again for the next.

    A context manager; `over` opens it. What is written meanwhile may stay unseen, so that it is to be closed before
    another round is made; it can be opened again.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stack = ExitStack()
        self._now: tuple[list[int], duckdb.DuckDBPyConnection, Audits] | None = None

    def __enter__(self) -> OpenRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def over(self, rounds: Iterable[int], ahead: Sequence[str]) -> tuple[duckdb.DuckDBPyConnection, Audits]:
        """A connection with the views of these rounds, and its audits, those `ahead` begun; both end with this.

        Raises as `views.connect`.
        """
        numbers = [*rounds]
        if self._now is None or self._now[0] != numbers:
            self.close()
            connection = self._stack.enter_context(connect(self.root, numbers))
            self._now = numbers, connection, self._stack.enter_context(Audits(connection))
        _, connection, audits = self._now
        audits.begin(ahead)
        return connection, audits

    def close(self) -> None:
        """Close what is open; DuckDB's memory is free then."""
        self._now = None
        self._stack.close()
