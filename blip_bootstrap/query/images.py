"""The view `images`: each row of the URL lists once, though it was fetched several times, or is in no list any more."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from blip_bootstrap.storage import schema, shown_tables, tables
from blip_bootstrap.storage.keys import ROWS_PER_PART, number_of
from blip_bootstrap.storage.parts import read_left_out

IMAGES = schema.Table("images", tables.IMAGES.row, (*tables.IMAGES.columns, shown_tables.LISTED))

EVERY_IMAGE = schema.Table("every_image", "one row per row of the files of `images`", tables.IMAGES.columns)
"""The files as they are: a row that was fetched again with success is there twice. No view of `views.VIEWS`."""


def create_images(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Create the views `images` and `some_images` over `every_image`, by what a folder of images left out."""
    left_out = _left_out(folder)
    if len(left_out):
        connection.register("arrow_rows", left_out)
        connection.execute("CREATE TABLE left_out AS SELECT * FROM arrow_rows")
        connection.unregister("arrow_rows")
    for name, every in (("images", "every_image"), ("some_images", "some_every_image")):
        sql = f"SELECT *, true AS listed FROM {every}"
        if len(left_out):
            sql = (
                f"SELECT i.*, l.row IS NULL AS listed FROM {every} i LEFT JOIN left_out l "
                "ON i.key::BIGINT = l.row WHERE l.retried IS NOT true"
            )
        connection.execute(f"CREATE VIEW {name} AS {sql}")


def listed_sql(rows: str, folder: Path) -> str:
    """SQL to stand after FROM: those of `rows`, a scan of a folder of images, that are listed."""
    left_out = {number_of(part): kinds for part, kinds in read_left_out(folder).items()}
    spans = [(part, *span) for part, kinds in left_out.items() for rows_of in kinds.values() for span in rows_of]
    if not spans:
        return rows
    starts = [part * ROWS_PER_PART + first for part, first, _ in spans]
    lasts = [part * ROWS_PER_PART + last for part, _, last in spans]
    gone = f"SELECT unnest(range(a, b + 1)) AS row FROM (SELECT unnest({starts}) AS a, unnest({lasts}) AS b)"
    return f"(SELECT * FROM {rows} WHERE key::BIGINT NOT IN ({gone}))"


def _left_out(folder: Path) -> pa.Table:
    """The keys, as numbers, of the rows that are left out, and whether another row stands for each."""
    rows, retried = [np.empty(0, np.int64)], [np.empty(0, np.bool_)]
    for part, kinds in read_left_out(folder).items():
        for kind, spans in kinds.items():
            for first, last in spans:
                rows.append(number_of(part) * ROWS_PER_PART + np.arange(first, last + 1))
                retried.append(np.full(last + 1 - first, kind == "retried"))
    return pa.table({"row": np.concatenate(rows), "retried": np.concatenate(retried)})
