"""The audits: questions about a run that have a name; each is an SQL file in `sql/`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import duckdb
import pyarrow as pa
from rich.console import Console

from blip_bootstrap.errors import AccountingError, InputError
from blip_bootstrap.query.formats import PipedConsole, rich_table
from blip_bootstrap.query.questions import query_few
from blip_bootstrap.query.views import connect
from blip_bootstrap.storage.run_folder import resolve_round

AUDITS: tuple[str, ...] = (
    "accounting", "downloads", "duplicates", "reasons", "noise", "noise_by_host", "noise_by_length",
    "noise_by_sampler", "languages", "scores", "thresholds", "agreement", "filter_quality", "variety", "diversity",
    "collapse", "phrases", "common", "vocabulary", "details", "repetition", "flags", "people", "domains", "opt_outs",
    "licences", "costs", "steps",
)  # fmt: skip
"""Every audit, in the order in which they are printed."""

SIDE_BY_SIDE = 2
"""Audits that are asked at a time: DuckDB plans each on one core."""


@dataclass(frozen=True)
class Answer:
    """The answer to an audit: its table, with the title and the meaning from the first two lines of its SQL file."""

    name: str
    title: str
    meaning: str
    table: pa.Table


def audit(
    root: Path, number: int | None = None, names: Sequence[str] = AUDITS, all_rounds: bool = False
) -> list[Answer]:
    """Ask the named audits about round `number` of the run under `root`; None: its last round, or all of them.

    An audit of what the run has not made has an empty table. Raises InputError for an unknown name, round or run.
    """
    for name in names:
        audit_sql(name)
    rounds = None if all_rounds else [resolve_round(root, number)]
    with connect(root, rounds) as connection, Audits(connection, names) as audits:
        return [audits(name) for name in names]


class Audits:
    """Audits on a connection of `views.connect`, each asked once, SIDE_BY_SIDE of them at a time.

    A context manager: inside, `audits(name)` waits for an audit's answer. The audits named in `ahead` begin at once.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, ahead: Sequence[str] = ()) -> None:
        self._connection = connection
        self._pool = ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="audit")
        self._cursors: set[duckdb.DuckDBPyConnection] = set()
        self._asked: dict[str, Future[Answer]] = {}
        self.begin(ahead)

    def __enter__(self) -> Audits:
        return self

    def __exit__(self, *_: object) -> None:
        for cursor in [*self._cursors]:  # at work still only where something was raised, as by Ctrl-C
            cursor.interrupt()
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, name: str) -> Answer:
        """The answer to the audit `name`. Raises InputError for an unknown name."""
        return self._begin(name).result()

    def begin(self, names: Sequence[str]) -> None:
        """Begin these audits without waiting for their answers."""
        for name in names:
            self._begin(name)

    def _begin(self, name: str) -> Future[Answer]:
        if name not in self._asked:
            self._asked[name] = self._pool.submit(self._ask, name)
        return self._asked[name]

    def _ask(self, name: str) -> Answer:
        with self._connection.cursor() as own:
            self._cursors.add(own)
            try:
                return ask(own, name)
            finally:
                self._cursors.discard(own)


def ask(connection: duckdb.DuckDBPyConnection, name: str) -> Answer:
    """The answer to one audit on a connection of `views.connect`. Raises InputError for an unknown name."""
    return answer(connection, name, audit_sql(name))


def answer(connection: duckdb.DuckDBPyConnection, name: str, sql: str) -> Answer:
    """The answer to SQL whose first two lines are comments: a title and what the table means."""
    title, meaning = (line.removeprefix("-- ") for line in sql.splitlines()[:2])
    return Answer(name, title, meaning, query_few(connection, sql))


def audit_sql(name: str) -> str:
    """An audit's SQL, which `blip-bootstrap sql` understands too. Raises InputError for an unknown name."""
    if name not in AUDITS:
        raise InputError(f"audit {name}: unknown; there are {', '.join(AUDITS)}")
    return files("blip_bootstrap.audit").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def check_accounting(answer: Answer) -> None:
    """Raise AccountingError where rows are missing in a line of the audit `accounting`."""
    for row in answer.table.to_pylist():
        if row["gap"]:
            raise AccountingError(
                f"round {row['round']}, {row['step']}: {row['rows_in']} rows in, but {row['kept']} kept and "
                f"{row['dropped']} dropped; delete the step's folder and run again"
            )


def print_audit(root: Path, number: int | None = None, names: Sequence[str] = AUDITS, all_rounds: bool = False) -> None:
    """Print the audits of a round, or of all, as tables on standard output.

    Raises AccountingError, after all is printed, where rows do not add up.
    """
    answers = audit(root, number, names, all_rounds)
    print_answers(PipedConsole(), answers)
    for answer in answers:
        if answer.name == "accounting":
            check_accounting(answer)


def print_answers(console: Console, answers: Sequence[Answer]) -> None:
    """Print answers as tables under their titles."""
    for answer in answers:
        console.print(f"\n[bold]{answer.title}[/bold]  ({answer.name})\n[dim]{answer.meaning}[/dim]", highlight=False)
        console.print(rich_table(answer.table, console.width) if answer.table.num_rows else "  nothing")
