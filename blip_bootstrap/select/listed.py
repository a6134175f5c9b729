"""Texts of rows that are in no URL list any more: rules do not see them, and the pairs have them as `not_listed`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.storage import parquet
from blip_bootstrap.storage.closed_lists import NOT_LISTED
from blip_bootstrap.storage.parts import LEFT_OUT, is_left_out, read_left_out
from blip_bootstrap.storage.schema import Table
from blip_bootstrap.storage.tables import PAIRS

LISTED = ".listed"
"""In the folder that pairs are made in: copies of the few files with such rows, without these."""

_WHOLE = "whole_file"
"""In the metadata of such a copy: the file that it was made from."""


def listed_only(files: Sequence[Path], folder: Path, out: Path, table: Table) -> list[Path]:
    """The files of `folder`, in place of each one with rows that are not listed a copy without them, under `out`.

    Such a copy has the columns of `table` alone, as far as the file has them.
    """
    left_out = read_left_out(folder)
    return [
        _copy(file, out / LISTED / file.name, left_out[file.name], folder, table) if file.name in left_out else file
        for file in files
    ]


def _copy(file: Path, copy: Path, spans: dict[str, list[tuple[int, int]]], folder: Path, table: Table) -> Path:
    there = parquet.open_parquet(file).schema_arrow.names
    columns = tuple(one for one in table.columns if one.name in there)
    rows = parquet.read_parquet(file, [one.name for one in columns])
    listed = rows.filter(pa.array(~is_left_out(rows["key"], spans)))
    told = {_WHOLE: str(file.absolute()), LEFT_OUT: str(folder.absolute())}
    parquet.write_parquet(copy, listed, Table(table.name, table.row, columns), told)
    return copy.resolve()  # as DuckDB names it


def whole_file(file: Path) -> Path:
    """The file that a copy of `listed_only` was made from; any other as it is."""
    return Path(_told(file, _WHOLE)) if file.parent.name == LISTED else file


def _told(file: Path, name: str) -> str:
    metadata: dict[bytes, bytes] = parquet.open_parquet(file).schema_arrow.metadata or {}
    return metadata[name.encode()].decode()


def with_not_listed(pairs: pa.Table, file: Path) -> pa.Table:
    """The pairs of a copy of `listed_only` with a row for each text that it lacks, in the order of the whole file."""
    if file.parent.name != LISTED:
        return pairs
    whole = _texts(whole_file(file))
    spans = read_left_out(Path(_told(file, LEFT_OUT)))[file.name]
    left_out = is_left_out(whole["key"], spans)
    places = np.empty(len(whole), np.int64)
    places[~left_out] = np.arange(len(pairs))
    places[left_out] = len(pairs) + np.arange(left_out.sum())
    decided = pairs.select(PAIRS.schema.names).cast(PAIRS.schema)
    return pa.concat_tables([decided, _dropped(whole.filter(pa.array(left_out)))]).take(places)


def _texts(file: Path) -> pa.Table:
    """The texts of a file of captions, or of the pictures of a file of images, as pairs have them."""
    names = parquet.open_parquet(file).schema_arrow.names
    if "source" in names:
        return parquet.read_parquet(file, ["key", "source", "candidate", "caption", "itm_score"])
    rows = parquet.read_parquet(file, ["key", "caption", "status"])
    rows = rows.filter(pc.equal(rows["status"], "success"))
    web = {"source": pa.repeat("web", len(rows)), "candidate": pa.repeat(pa.scalar(0, pa.int16()), len(rows))}
    return pa.table({"key": rows["key"], **web, "caption": rows["caption"]})


def _dropped(texts: pa.Table) -> pa.Table:
    filled = {name: pa.nulls(len(texts), PAIRS.schema.field(name).type) for name in PAIRS.schema.names}
    same = {name: texts[name] for name in texts.column_names}
    same["caption"] = pc.utf8_trim_whitespace(pc.fill_null(texts["caption"], ""))
    why = {"kept": pa.repeat(False, len(texts)), "reason": pa.repeat(NOT_LISTED, len(texts))}
    return pa.table({**filled, **same, **why}).select(PAIRS.schema.names).cast(PAIRS.schema)
