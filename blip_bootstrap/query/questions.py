"""Questions to DuckDB: one that does more than read is refused, an answer is Arrow, a mistake is one line."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any

import duckdb
import pyarrow as pa

from blip_bootstrap.ending import Terminated
from blip_bootstrap.errors import InputError

BATCH_ROWS = 10_000

WRITING = frozenset({"copy", "insert", "update", "delete", "merge"})
"""Words that a WITH can hold and that write, though DuckDB calls such a statement a SELECT."""

warnings.filterwarnings("ignore", "Arrow output on a DB-API result makes an extra copy")  # which query_few accepts

_EXPLAIN = re.compile(r"explain(\s+analyze)?(\s*\([^)]*\))?\s+", re.IGNORECASE)

_PIVOT = re.compile(r"\(?\s*(pivot|select|from|with)\b", re.IGNORECASE)


def query(connection: duckdb.DuckDBPyConnection, question: str) -> pa.Table:
    """The answer to one SQL question as an Arrow table; a column with the name of an earlier one gets a number.

    Raises InputError where the SQL is wrong, is not exactly one question, or would do something else than read.
    """
    return _whole(connection, question, connection.sql)


def query_few(connection: duckdb.DuckDBPyConnection, question: str) -> pa.Table:
    """The answer to one SQL question of which few rows are expected, as `query` gives it and raises.

    The rows are copied once more, but DuckDB plans once instead of twice: over small tables a third of the time.
    """
    return _whole(connection, question, connection.execute)


def _whole(connection: duckdb.DuckDBPyConnection, question: str, asks: Callable[[str], Any]) -> pa.Table:
    asked = _one_question(connection, question)
    with _aside(connection) as answer:
        found: pa.Table = answer(lambda: asks(asked).to_arrow_table())
    return found.rename_columns(_unlike(found.schema.names))


def query_first(connection: duckdb.DuckDBPyConnection, question: str, num_rows: int) -> tuple[pa.Table, int]:
    """The first `num_rows` rows of an answer, and the number of all its rows. Raises InputError as `query` does."""
    asked = _one_question(connection, question)
    with _aside(connection) as answer:
        relation = answer(lambda: connection.sql(asked))
        found: pa.Table = answer(lambda: relation.limit(num_rows).to_arrow_table())
        total = found.num_rows
        if total == num_rows:
            total = answer(lambda: relation.count("*").fetchall())[0][0]
    return found.rename_columns(_unlike(found.schema.names)), total


@contextmanager
def query_batches(
    connection: duckdb.DuckDBPyConnection, question: str
) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """The schema of an answer, and its rows in batches, one at a time in memory. Raises InputError as `query` does."""
    asked = _one_question(connection, question)
    with _aside(connection) as answer:
        reader: pa.RecordBatchReader = answer(lambda: connection.sql(asked).to_arrow_reader(BATCH_ROWS))
        names = _unlike(reader.schema.names)
        schema = pa.schema([field.with_name(name) for field, name in zip(reader.schema, names, strict=True)])
        yield schema, (batch.rename_columns(names) for batch in iter(lambda: answer(lambda: next(reader, None)), None))


def _one_question(connection: duckdb.DuckDBPyConnection, text: str) -> str:
    asked = split_questions(connection, text)
    if len(asked) != 1:
        told = f"{len(asked)} questions at once" if asked else "no question was given"
        raise InputError(f"{told}; give one SELECT")
    return _without_end(asked[0])


def _without_end(question: str) -> str:
    """A question without the `;` that ends it and any comment after it, so that it can be part of another question."""
    content = question.encode()
    said = [at for at, kind in duckdb.tokenize(question) if kind != duckdb.token_type.comment]
    return content[: said[-1]].decode() if said and content[said[-1] :].startswith(b";") else question


def split_questions(connection: duckdb.DuckDBPyConnection, text: str) -> list[str]:
    """The questions in a text, which `;` separates. Raises InputError where a statement does not just read."""
    with told_in_one_line():
        statements = connection.extract_statements(text)
        for statement in statements:
            if not _reads(connection, statement):
                raise InputError(
                    f"{statement.type.name}: only questions (SELECT, FROM, PIVOT, DESCRIBE, EXPLAIN) are allowed"
                )
            if verb := _writing_word(statement.query):
                raise InputError(f"{verb}: a question cannot write; a name that is spelled so belongs in double quotes")
    return [statement.query for statement in statements]


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """A context in which an error of DuckDB, from wrong SQL or a damaged file, becomes an InputError of one line."""
    try:
        yield
    except duckdb.Error as error:
        raise InputError(_one_line(error)) from error
    except UnicodeEncodeError as error:
        raise InputError(f"{error.object!a}: not UTF-8 text; type it on a terminal of that encoding") from error


@contextmanager
def _aside(connection: duckdb.DuckDBPyConnection) -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """A function that runs work on DuckDB and returns its result; called from the main thread, it uses another thread.

    In DuckDB, Ctrl-C is noticed late or becomes an error of its own; a main thread that waits notices it at once.
    Errors of DuckDB become InputError, as in `told_in_one_line`.
    """

    def call(work: Callable[[], Any]) -> Any:
        try:
            return await_aside(work) if current_thread() is main_thread() else work()
        except (pa.ArrowException, OSError) as error:  # so DuckDB's come out of a reader of batches
            raise InputError(_one_line(error)) from error

    def await_aside(work: Callable[[], Any]) -> Any:
        asked = pool.submit(work)
        try:
            return asked.result()
        except (KeyboardInterrupt, Terminated):
            connection.interrupt()
            raise
        finally:
            del asked  # it holds an exception that holds this frame, and DuckDB counts at exit what is left

    with ThreadPoolExecutor(1) as pool, told_in_one_line():
        yield call


def is_whole(text: str) -> bool:
    """Whether a text ends with a `;` outside of strings and comments, so that a question in it is whole."""
    words = [word for word, kind in _words(text) if kind != duckdb.token_type.comment]
    return bool(words) and words[-1] == ";"


def _reads(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement) -> bool:
    """Whether a statement only reads. DuckDB's type alone does not say so: COPY of a PIVOT has the type MULTI."""
    text = re.sub(r"\A(\s+|--[^\n]*\n|/\*.*?\*/)*", "", statement.query, flags=re.DOTALL)
    if statement.type.name == "EXPLAIN":
        inner = connection.extract_statements(_EXPLAIN.sub("", text, count=1))
        return len(inner) == 1 and inner[0].type.name != "EXPLAIN" and _reads(connection, inner[0])
    return statement.type.name == "SELECT" or (statement.type.name == "MULTI" and bool(_PIVOT.match(text)))


def _writing_word(text: str) -> str | None:
    """The first keyword of `WRITING` in a statement, outside of quotes and comments; None where there is none."""
    words = (word for word, kind in _words(text) if kind == duckdb.token_type.keyword)
    return next((word.upper() for word in words if word.lower() in WRITING), None)


def _words(text: str) -> list[tuple[str, object]]:
    """The tokens of a text with their types, as DuckDB finds them; its offsets count bytes."""
    content, tokens = text.encode(), duckdb.tokenize(text)
    places = [*(at for at, _ in tokens), len(content)]
    return [(content[at:end].decode().strip(), kind) for (at, kind), end in zip(tokens, places[1:], strict=True)]


def _unlike(names: list[str]) -> list[str]:
    """The names, each made unlike the earlier ones by a number: `key`, `key_1`."""
    found: list[str] = []
    for name in names:
        other, number = name, 0
        while other in found:
            number += 1
            other = f"{name}_{number}"
        found.append(other)
    return found


def _one_line(error: Exception) -> str:
    """The first line of DuckDB's message and its guess, without the picture of the query below."""
    lines = [line.strip() for line in str(error).splitlines()]
    guess = [line for line in lines[1:] if line.startswith(("Did you mean", "Candidate"))]
    return "; ".join([lines[0], *guess])
