"""Python values as DuckDB SQL text: literals, lists, and scans of Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from glob import escape
from pathlib import Path


def literal(text: str) -> str:
    """A string literal."""
    return "'" + text.replace("'", "''") + "'"


def text_list(texts: Sequence[str]) -> str:
    """A list of string literals."""
    return "[" + ", ".join(literal(text) for text in texts) + "]"


def is_number(column: str) -> str:
    """Whether a value of a float column is one: neither null nor NaN.

    Not `NOT isnan(...)`: over Parquet without nulls DuckDB answers that by the file's least and highest value, which
    leave NaN out, and finds none.
    """
    return f"(isfinite({column}) OR isinf({column}))"


def scan(files: Sequence[Path | str], options: str = "") -> str:
    """A table function that reads `files`, paths or URIs, as one table.

    Columns are matched by name, since later files may have more of them, and nothing is read from folder names:
    DuckDB would take a folder `round=2` for a column.
    """
    names = text_list([escape(str(path)) for path in files])
    settings = ["union_by_name = true", "hive_partitioning = false", *([options] if options else [])]
    return f"read_parquet({names}, {', '.join(settings)})"
