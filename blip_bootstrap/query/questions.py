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
"""A WITH can hold any of these, and DuckDB still calls the statement a SELECT."""

warnings.filterwarnings("ignore", "Arrow output on a DB-API result makes an extra copy")  # which query_few accepts

_EXPLAIN = re.compile(r"explain(\s+analyze)?(\s*\([^)]*\))?\s+", re.IGNORECASE)

_PIVOT = re.compile(r"\(?\s*(pivot|select|from|with)\b", re.IGNORECASE)


def query(connection: duckdb.DuckDBPyConnection, question: str) -> pa.Table:
    """The answer to one question as Arrow; a column whose name an earlier one has gets a number.

    Raises InputError where the SQL is wrong, is more or less than one question, or would do something else than read.
    """
    return _whole(connection, question, connection.sql)


def query_few(connection: duckdb.DuckDBPyConnection, question: str) -> pa.Table:
    """The same for an answer of few rows: they are copied once more, but DuckDB plans once instead of twice.

    Over small tables that is a third of the time.
    """
    return _whole(connection, question, connection.execute)


def _whole(connection: duckdb.DuckDBPyConnection, question: str, asks: Callable[[str], Any]) -> pa.Table:
    asked = _one_question(connection, question)
    with _aside(connection) as answer:
        found: pa.Table = answer(lambda: asks(asked).to_arrow_table())
    return found.rename_columns(_unlike(found.schema.names))


def query_first(connection: duckdb.DuckDBPyConnection, question: str, num_rows: int) -> tuple[pa.Table, int]:
    """The answer's first `num_rows` rows, and how many it has; what the others hold is not read. Raises as `query`."""
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
    """The answer's columns, and its rows in batches, of which one at a time is held. Raises as `query`."""
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
    """A question without the `;` that ends it and what is said after that, so that it can be part of another."""
    content = question.encode()
    said = [at for at, kind in duckdb.tokenize(question) if kind != duckdb.token_type.comment]
    return content[: said[-1]].decode() if said and content[said[-1] :].startswith(b";") else question


def split_questions(connection: duckdb.DuckDBPyConnection, text: str) -> list[str]:
    """The questions in a text, each ended by `;` or the text's end. Raises InputError where one is no question."""
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
    """DuckDB's errors, wrong SQL and damaged files alike, as InputError in one line."""
    try:
        yield
    except duckdb.Error as error:
        raise InputError(_one_line(error)) from error
    except UnicodeEncodeError as error:
        raise InputError(f"{error.object!a}: not UTF-8 text; type it on a terminal of that encoding") from error


@contextmanager
def _aside(connection: duckdb.DuckDBPyConnection) -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """What calls something that asks DuckDB, from the main thread in another one, and returns its result.

    DuckDB sees Ctrl-C late or as an error of its own, a main thread that waits sees it at once. Errors as above.
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
    """Whether a text ends with a `;` that is no part of a string or of a comment."""
    words = [word for word, kind in _words(text) if kind != duckdb.token_type.comment]
    return bool(words) and words[-1] == ";"


def _reads(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement) -> bool:
    """Whether a statement is a question. DuckDB's kind alone does not tell: COPY of a PIVOT is of the kind MULTI."""
    text = re.sub(r"\A(\s+|--[^\n]*\n|/\*.*?\*/)*", "", statement.query, flags=re.DOTALL)
    if statement.type.name == "EXPLAIN":
        inner = connection.extract_statements(_EXPLAIN.sub("", text, count=1))
        return len(inner) == 1 and inner[0].type.name != "EXPLAIN" and _reads(connection, inner[0])
    return statement.type.name == "SELECT" or (statement.type.name == "MULTI" and bool(_PIVOT.match(text)))


def _writing_word(text: str) -> str | None:
    """The first word of `WRITING` in a statement that is neither quoted nor in a comment."""
    words = (word for word, kind in _words(text) if kind == duckdb.token_type.keyword)
    return next((word.upper() for word in words if word.lower() in WRITING), None)


def _words(text: str) -> list[tuple[str, object]]:
    """DuckDB's own tokens with their kinds; its places are those of bytes."""
    content, tokens = text.encode(), duckdb.tokenize(text)
    places = [*(at for at, _ in tokens), len(content)]
    return [(content[at:end].decode().strip(), kind) for (at, kind), end in zip(tokens, places[1:], strict=True)]


def _unlike(names: list[str]) -> list[str]:
    """Names with numbers where one is there already: `key`, `key_1`."""
    found: list[str] = []
    for name in names:
        other, number = name, 0
        while other in found:
            number += 1
            other = f"{name}_{number}"
        found.append(other)
    return found


def _one_line(error: Exception) -> str:
    """DuckDB's message without the drawing of the query below it, with its guess."""
    lines = [line.strip() for line in str(error).splitlines()]
    guess = [line for line in lines[1:] if line.startswith(("Did you mean", "Candidate"))]
    return "; ".join([lines[0], *guess])
