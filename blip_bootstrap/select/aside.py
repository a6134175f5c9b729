"""Texts that are set aside before the rule: it does not see them, and the pairs have them with their own reason.

These are texts of rows that are in no URL list any more, of pictures that others duplicate, and those that a text rule
speaks against. They have no verdict, and so count in no noise ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.machine import num_cores
from blip_bootstrap.schemas.closed_lists import DUPLICATE_PICTURE, NOT_LISTED, SET_ASIDE
from blip_bootstrap.schemas.schema import Column, Table
from blip_bootstrap.schemas.tables import PAIRS
from blip_bootstrap.storage import parquet
from blip_bootstrap.storage.groups import duplicates_in
from blip_bootstrap.storage.parts import is_left_out, read_left_out

JUDGED = ".judged"
"""In the folder that pairs are made in: copies of the files that have texts set aside, without these."""

WHOLE = "whole_file"
"""In the metadata of such a copy: the file that it was made from."""

_ASIDE = Table(
    "aside",
    "one row per text that is set aside, as pairs have it",
    (*PAIRS.columns, Column("place", pa.int64(), "its row in the whole file, from 0")),
)

Aside = Callable[[pa.Table, str], pa.Array]
"""Of each text of a file (columns key, source, candidate), with the file's name: why it is set aside, or null."""


def not_listed(folder: Path) -> list[Aside]:
    """Sets aside the texts of rows that are in no URL list any more, as the artifact in `folder` notes them."""
    left_out = read_left_out(folder)

    def why(texts: pa.Table, part: str) -> pa.Array:
        at = is_left_out(texts["key"], left_out.get(part, {}))
        return pc.if_else(pa.array(at), NOT_LISTED, pa.scalar(None, pa.string()))

    return [why] if left_out else []


def duplicates(groups: Path | None) -> list[Aside]:
    """Sets aside the texts of pictures that have another one trained on in their place (`storage/groups.py`)."""

    def why(texts: pa.Table, part: str) -> pa.Array:
        at = pc.is_in(texts["key"], duplicates_in(groups, part))
        return pc.if_else(at, DUPLICATE_PICTURE, pa.scalar(None, pa.string()))

    return [why] if groups else []


def by_key(folder: Path | None, sources: Sequence[str] = ("web", "synthetic")) -> list[Aside]:
    """Sets aside texts of `sources` whose picture has a `reason` in a table of the run; none where there is no table.

    The files of `folder` are aligned with those of images, and have the columns `key` and `reason`.
    """

    def why(texts: pa.Table, part: str) -> pa.Array:
        told = parquet.read_parquet(folder / part, ["key", "reason"])  # type: ignore[operator]
        told = told.filter(pc.is_valid(told["reason"]))
        reasons = told["reason"].combine_chunks().take(pc.index_in(texts["key"], told["key"]).combine_chunks())
        return pc.if_else(pc.is_in(texts["source"], pa.array(sources)), reasons, pa.scalar(None, pa.string()))

    return [why] if folder else []


def as_in(pairs: Path) -> list[Aside]:
    """Sets aside what was so when `pairs` were made, which have a row for each text, in the same order."""

    def why(texts: pa.Table, part: str) -> pa.Array:
        reasons = parquet.read_parquet(pairs / part, ["reason"])["reason"]
        return pc.if_else(pc.is_in(reasons, pa.array(SET_ASIDE)), reasons, pa.scalar(None, pa.string()))

    return [why]


def reasons_of(asides: Sequence[Aside], texts: pa.Table, part: str) -> pa.Array:
    """Of each text the first reason that one of `asides` gives; null where it is not set aside."""
    found = [_whole(aside(texts, part)) for aside in asides]
    return pc.coalesce(*found) if found else pa.nulls(len(texts), pa.string())


def _whole(reasons: pa.Array | pa.ChunkedArray) -> pa.Array:
    return reasons.combine_chunks() if isinstance(reasons, pa.ChunkedArray) else reasons


def judged_only(files: Sequence[Path], out: Path, table: Table, asides: Sequence[Aside]) -> list[Path]:
    """The files, in place of each one with texts that are set aside a copy without these, under `out`.

    Such a copy has the columns of `table` alone, as far as the file has them.
    """
    if not asides:
        return [*files]
    with ThreadPoolExecutor(num_cores()) as pool:
        return [*pool.map(lambda file: _judged(file, out / JUDGED / file.name, table, asides), files)]


def _judged(file: Path, copy: Path, table: Table, asides: Sequence[Aside]) -> Path:
    texts = _texts(file)
    reasons = reasons_of(asides, texts, file.name)
    aside = pc.is_valid(reasons)
    if not pc.any(aside).as_py():
        return file
    dropped = texts.append_column("place", pa.array(np.arange(len(texts)))).append_column("reason", reasons)
    parquet.write_parquet(_beside(copy), _dropped(dropped.filter(aside)), _ASIDE)
    there = parquet.open_parquet(file).schema_arrow.names
    columns = tuple(one for one in table.columns if one.name in there)
    rows = parquet.read_parquet(file, [one.name for one in columns])
    is_row = pc.is_in(rows["key"], texts["key"].filter(aside)) if "source" not in there else aside
    told = {WHOLE: str(file.absolute())}
    parquet.write_parquet(copy, rows.filter(pc.invert(is_row)), Table(table.name, table.row, columns), told)
    return copy.resolve()  # as DuckDB names it


def _beside(copy: Path) -> Path:
    return copy.parent / "aside" / copy.name


def whole_file(file: Path) -> Path:
    """The file that a copy of `judged_only` was made from; any other as it is."""
    if file.parent.name != JUDGED:
        return file
    metadata: dict[bytes, bytes] = parquet.open_parquet(file).schema_arrow.metadata or {}
    return Path(metadata[WHOLE.encode()].decode())


def with_aside(pairs: pa.Table, file: Path) -> pa.Table:
    """The pairs of a copy of `judged_only` with a row for each text that it lacks, in the order of the whole file."""
    if file.parent.name != JUDGED:
        return pairs
    aside = parquet.read_parquet(_beside(file))
    is_aside = np.zeros(len(pairs) + len(aside), np.bool_)
    is_aside[aside["place"].to_numpy()] = True
    places = np.empty(len(is_aside), np.int64)
    places[~is_aside] = np.arange(len(pairs))
    places[is_aside] = len(pairs) + np.arange(len(aside))
    decided = pairs.select(PAIRS.schema.names).cast(PAIRS.schema)
    return pa.concat_tables([decided, aside.select(PAIRS.schema.names).cast(PAIRS.schema)]).take(places)


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
    filled = {name: pa.nulls(len(texts), _ASIDE.schema.field(name).type) for name in _ASIDE.schema.names}
    same = {name: texts[name] for name in texts.column_names}
    same["caption"] = pc.utf8_trim_whitespace(pc.fill_null(texts["caption"], ""))
    kept = {"kept": pa.repeat(False, len(texts))}
    return pa.table({**filled, **same, **kept}).select(_ASIDE.schema.names).cast(_ASIDE.schema)
