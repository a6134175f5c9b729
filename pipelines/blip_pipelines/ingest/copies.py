"""Rows with the URL of an earlier row have its picture: it is copied, not fetched again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.schemas.keys import number_of, part_name, part_of
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.parquet import open_parquet, reading, rows_to_table, write_parquet
from blip_bootstrap.stores.store import is_there

WAITING = ".waiting"
"""In an artifact of images that is made: parts that lack nothing but copies of pictures of parts that were in work. A
row that is named is never a copy itself, so that what these parts have suffices for all of them: nobody waits."""

OWN = (
    "key", "uid", "dataset", "url", "caption", "cut_from_chars", "same_as", "source_key", "extra", "attempts",
    "error_message",
)  # fmt: skip
"""Columns that a row has for itself; it has all others from the row that it names."""

Row = dict[str, Any]


def is_copy(row: Row) -> bool:
    """Whether a row of a shard is not fetched, since an earlier row has its picture."""
    return row["status"] is None and row.get("same_as") is not None


def waiting_file(part: Path) -> Path:
    """Where a part lies while it waits for copies."""
    return part.parent / WAITING / part.name


def write_waiting(part: Path, rows: list[Row]) -> None:
    """Keep what was fetched of a part until the other parts are there."""
    write_parquet(waiting_file(part), rows_to_table(rows, IMAGES), IMAGES)


def read_waiting(part: Path) -> list[Row] | None:
    """The rows of a part that waits for copies; None where it does not."""
    file = waiting_file(part)
    if not is_there(file):
        return None
    with reading(file), open_parquet(file) as parquet:
        rows: list[Row] = parquet.read().to_pylist()
        return rows


def fill(rows: list[Row], part: Path) -> list[int]:
    """Give each copy among the rows of a part the picture and the status of its first; the places of those left over.

    The first is a row of this part, or of another one, which is there or waits as well.
    """
    places = [place for place, row in enumerate(rows) if is_copy(row)]
    if not places:
        return []
    firsts = {row["key"]: row for row in rows}
    wanted: dict[int, set[str]] = {}
    for place in places:
        key = rows[place]["same_as"]
        if part_of(key) != number_of(part.name):
            wanted.setdefault(part_of(key), set()).add(key)
    for number, keys in wanted.items():
        firsts |= {row["key"]: row for row in _read_firsts(part.with_name(part_name(number)), keys)}
    for place in places:
        first = firsts.get(rows[place]["same_as"])
        if first and first["status"] and first["url"] == rows[place]["url"]:  # which are known by 8 bytes of their md5
            rows[place] = copy_of(rows[place], first)
    return [place for place in places if is_copy(rows[place])]


def copy_of(row: Row, first: Row) -> Row:
    """A row with the picture and the status of another; where that failed, this one has failed for the same reason."""
    found = {**first, **{name: row.get(name) for name in OWN if name in first}}
    if first["status"] != "success":
        found["error_message"] = f"the row {first['key']} with this URL failed"
    return found


def _read_firsts(part: Path, keys: set[str]) -> Iterator[Row]:
    """The rows with these keys of a part that is there or waits; only row groups that have one are read."""
    file = next((one for one in (part, waiting_file(part), part) if is_there(one)), None)
    if file is None:
        return
    with reading(file), open_parquet(file) as parquet:
        names = set(parquet.schema_arrow.names)
        for group in range(parquet.num_row_groups):
            mask = _are_in(parquet.read_row_group(group, ["key"])["key"], keys)
            if pc.any(mask).as_py():
                for row in parquet.read_row_group(group).filter(mask).to_pylist():
                    yield row | dict.fromkeys(set(IMAGES.schema.names) - names)


def _are_in(column: pa.ChunkedArray, keys: Iterable[str]) -> pa.ChunkedArray:
    return pc.is_in(column, pa.array(sorted(keys), pa.string()))


def as_fetched(rows: Sequence[Row]) -> list[Row]:
    """Copies whose first is nowhere, as rows to be fetched themselves."""
    return [{**row, "same_as": None} for row in rows]
