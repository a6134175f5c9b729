"""Python values as DuckDB SQL text: literals, lists, and scans of Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from glob import escape
from pathlib import Path

from blip_bootstrap.stores.store import all_fetched


def literal(text: str) -> str:
    """A string literal."""
    return "'" + text.replace("'", "''") + "'"


def text_list(texts: Sequence[str]) -> str:
    """A list of string literals."""
    return "[" + ", ".join(literal(text) for text in texts) + "]"


def is_number(column: str) -> str:
    """SQL that is true where a float column holds a number, and not null or NaN.

    `NOT isnan(...)` will not do: over Parquet without nulls DuckDB answers it from the file's least and highest value,
    which leave NaN out, and takes every row.
    """
    return f"(isfinite({column}) OR isinf({column}))"


def scan(files: Sequence[Path | str], options: str = "", by_name: bool = True) -> str:
    """A table function that reads `files`, paths or URIs, as one table.

    Columns are matched by name, those of all files, for which DuckDB opens each of them at once; not `by_name`: those
    of the first file, which the others have, too. Nothing is read from folder names:
    DuckDB would take a folder `round=2` for a column. No character of a name has a meaning: stars and brackets are
    escaped, and a relative path is made absolute, since DuckDB would take a `~` at its start for the home folder. Paths
    of a run on a store are brought here first, if they are not.
    """
    all_fetched([one for one in files if isinstance(one, Path)])
    names = text_list([escape(name) for name in map(_whole, files)])
    settings = [f"union_by_name = {str(by_name).lower()}", "hive_partitioning = false", *([options] if options else [])]
    return f"read_parquet({names}, {', '.join(settings)})"


def allowed(files: Sequence[Path | str]) -> str:
    """The value of `allowed_paths` that lets `scan(files)` read: it checks the escaped names, then those it finds."""
    names = [_whole(path) for path in files]
    return text_list([*names, *(pattern for name in names if (pattern := escape(name)) != name)])


def _whole(path: Path | str) -> str:
    return str(path.absolute()) if isinstance(path, Path) else path
