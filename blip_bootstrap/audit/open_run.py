"""A run that stays open while several pages are made of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import duckdb

from blip_bootstrap.audit.audits import Audits
from blip_bootstrap.query.views import connect


class OpenRun:
    """A run whose pages are being made; an audit that one page asked is not asked again for the next.

    A context manager; `over` connects. Close it before another round is made, since the connection may not see what
    is written later; `over` connects again.
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
        """A connection with the views of these rounds, and audits on it, of which those named in `ahead` begin at once.

        Both last until this is closed or asked for other rounds. Raises InputError where the run is not there.
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
        """End the connection, if there is one, and free DuckDB's memory."""
        self._now = None
        self._stack.close()
