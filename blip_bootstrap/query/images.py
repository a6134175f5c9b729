"""The view `images`: each row of the URL lists once, though it was fetched several times, or is in no list any more."""

from __future__ import annotations

from pathlib import Path

import duckdb

from blip_bootstrap.schemas import schema, shown_tables, tables
from blip_bootstrap.schemas.keys import ROWS_PER_PART, number_of
from blip_bootstrap.storage.parts import read_left_out

IMAGES = schema.Table("images", tables.IMAGES.row, (*tables.IMAGES.columns, shown_tables.LISTED))

EVERY_IMAGE = schema.Table("every_image", "one row per row of the files of `images`", tables.IMAGES.columns)
"""The files as they are: a row that was fetched again with success is there twice. No view of `views.VIEWS`."""


def create_images(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Create the views `images` and `some_images` over `every_image`, by what a folder of images left out."""
    left_out = _left_out(folder)
    if left_out:
        columns = [list(column) for column in zip(*left_out, strict=True)]
        connection.execute(
            "CREATE TABLE left_out AS SELECT unnest(range(first, last + 1)) AS row, retried "
            "FROM (SELECT unnest(?::BIGINT[]) AS first, unnest(?::BIGINT[]) AS last, unnest(?::BOOL[]) AS retried)",
            columns,
        )
    for name, every in (("images", "every_image"), ("some_images", "some_every_image")):
        sql = f"SELECT *, true AS listed FROM {every}"
        if left_out:
            sql = (
                f"SELECT i.*, l.row IS NULL AS listed FROM {every} i LEFT JOIN left_out l "
                "ON i.key::BIGINT = l.row WHERE l.retried IS NOT true"
            )
        connection.execute(f"CREATE VIEW {name} AS {sql}")


def listed_sql(rows: str, folder: Path) -> str:
    """SQL to stand after FROM: those of `rows`, a scan of a folder of images, that are listed."""
    left_out = _left_out(folder)
    if not left_out:
        return rows
    firsts, lasts, _ = (list(column) for column in zip(*left_out, strict=True))
    gone = f"SELECT unnest(range(a, b + 1)) AS row FROM (SELECT unnest({firsts}) AS a, unnest({lasts}) AS b)"
    return f"(SELECT * FROM {rows} WHERE key::BIGINT NOT IN ({gone}))"


def _left_out(folder: Path) -> list[tuple[int, int, bool]]:
    """First and last key, as numbers, of each span of rows left out, and whether other rows stand for them."""
    return [
        (number_of(part) * ROWS_PER_PART + first, number_of(part) * ROWS_PER_PART + last, kind == "retried")
        for part, kinds in read_left_out(folder).items()
        for kind, spans in kinds.items()
        for first, last in spans
    ]
