"""Reading and writing labels: the answers that people gave in a spot check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError, writing
from blip_bootstrap.schemas.cells import NotTextError, text_of
from blip_bootstrap.schemas.shown_tables import LABELS
from blip_bootstrap.storage import parquet
from blip_bootstrap.storage.parquet import rows_to_table

ANSWERS = ("yes", "no", "unsure")

NEEDED = LABELS.schema.names[: LABELS.schema.names.index("answer") + 1]
"""Columns that every labels file has; the scores after them are null in those of earlier versions."""


def read_labels(path: Path) -> list[dict[str, Any]]:
    """The rows of a labels file. Raises InputError, naming the row, where it is not one."""
    if not path.is_file():
        raise InputError(f"{path}: no labels; draw a sample first (`blip-bootstrap audit sample`)")
    table = parquet.read_parquet(path, advice="give a file of `audit sample` or `audit calibrate`")
    if missing := set(NEEDED) - set(table.schema.names):
        raise InputError(f"{path}: not a labels file, the columns {', '.join(sorted(missing))} are missing")
    if len(set(table.schema.names)) < len(table.schema.names):
        raise InputError(f"{path}: not a labels file, a column is there twice")
    rows = [dict.fromkeys(LABELS.schema.names) | row for row in table.to_pylist()]
    for at, row in enumerate(rows):
        try:  # another program may have answered: pandas has NaN where nothing is
            row |= {name: text_of(row[name]) or None for name in ("key", "source", "answer")}
        except NotTextError as error:
            raise InputError(f"{path}, row {at}: {error} where a text was expected") from error
        if row["answer"] not in (*ANSWERS, None) or None in (row["key"], row["source"]):
            told = f"key {row['key']}, source {row['source']}, answer {row['answer']!r}"
            raise InputError(f"{path}, row {at}: {told}; it needs key and source, and answers are {', '.join(ANSWERS)}")
    return rows


def write_labels(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace a labels file, whole or not at all. Raises InputError where it cannot be written."""
    with writing(path):
        parquet.write_parquet(path, rows_to_table(rows, LABELS), LABELS)
