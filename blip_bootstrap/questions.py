"""Questions to DuckDB: one that does more than read is refused, an answer is Arrow, a mistake is one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from blip_bootstrap.errors import InputError

WRITING = frozenset({"copy", "insert", "update", "delete", "merge"})
"""A WITH can hold any of these, and DuckDB still calls the statement a SELECT."""

_EXPLAIN = re.compile(r"explain(\s+analyze)?(\s*\([^)]*\))?\s+", re.IGNORECASE)
_PIVOT = re.compile(r"\(?\s*(pivot|select|from|with)\b", re.IGNORECASE)


def query(connection: duckdb.DuckDBPyConnection, question: str) -> pa.Table:
    """The answer to one question as Arrow; a column whose name an earlier one has gets a number.

    Raises InputError where the SQL is wrong, is more or less than one question, or would do something else than read.
    """
    asked = split_questions(connection, question)
    if len(asked) != 1:
        told = f"{len(asked)} questions at once" if asked else "no question was given"
        raise InputError(f"{told}; give one SELECT")
    with told_in_one_line():
        answer = _answer(connection, asked[0])
    return answer.rename_columns(_unlike(answer.schema.names))


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


def is_whole(text: str) -> bool:
    """Whether a text ends with a `;` that is no part of a string or of a comment."""
    words = [word for word, kind in _words(text) if kind != duckdb.token_type.comment]
    return bool(words) and words[-1] == ";"


def _answer(connection: duckdb.DuckDBPyConnection, question: str) -> pa.Table:
    """Ask in another thread: DuckDB sees Ctrl-C late or as an error of its own, a thread that waits sees it at once."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: connection.sql(question).to_arrow_table())
        try:
            return asked.result()
        except KeyboardInterrupt:
            connection.interrupt()
            raise
        finally:
            del asked  # it holds an exception that holds this frame, and DuckDB counts at exit what is left


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


def _one_line(error: duckdb.Error) -> str:
    """DuckDB's message without the drawing of the query below it, with its guess."""
    lines = [line.strip() for line in str(error).splitlines()]
    guess = [line for line in lines[1:] if line.startswith(("Did you mean", "Candidate"))]
    return "; ".join([lines[0], *guess])
