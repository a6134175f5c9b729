"""Texts that rules do not see: of rows in no URL list any more, and of pictures that another row has, too.

The pairs have them as `not_listed` and `duplicate_picture`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.storage import parquet
from blip_bootstrap.storage.closed_lists import DUPLICATE_PICTURE, NOT_LISTED
from blip_bootstrap.storage.groups import duplicates_in
from blip_bootstrap.storage.parts import LEFT_OUT, is_left_out, read_left_out
from blip_bootstrap.storage.schema import Table
from blip_bootstrap.storage.tables import PAIRS

Mask = npt.NDArray[np.bool_]

COPIES_AT_ONCE = 4
"""Files that are copied at a time, each whole in memory."""

LISTED = ".listed"
"""In the folder that pairs are made in: copies of the files with such rows, without these."""

_WHOLE = "whole_file"
"""In the metadata of such a copy: the file that it was made from."""

_GROUPS = "picture_groups"
"""In the metadata of such a copy: the folder of the groups by which it lacks duplicates."""


def listed_only(files: Sequence[Path], folder: Path, out: Path, table: Table, groups: Path | None = None) -> list[Path]:
    """The files of `folder`, in place of each one with rows that rules do not see a copy without them, under `out`.

    These are rows that are not listed, and rows of duplicates by `groups`, a folder of `picture_groups` whose files
    have the same names. Such a copy has the columns of `table` alone, as far as the file has them.
    """
    left_out = read_left_out(folder)

    def seen(file: Path) -> Path:
        duplicates = duplicates_in(groups, file.name)
        if not len(duplicates) and file.name not in left_out:
            return file
        return _copy(file, out / LISTED / file.name, folder, groups, table)

    with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:
        return [*pool.map(seen, files)]


def _copy(file: Path, copy: Path, folder: Path, groups: Path | None, table: Table) -> Path:
    there = parquet.open_parquet(file).schema_arrow.names
    columns = tuple(one for one in table.columns if one.name in there)
    rows = parquet.read_parquet(file, [one.name for one in columns])
    unlisted, duplicate = _unseen(rows["key"], file.name, folder, groups)
    told = {_WHOLE: str(file.absolute()), LEFT_OUT: str(folder.absolute())}
    told |= {_GROUPS: str(groups.absolute())} if groups else {}
    seen = rows.filter(pa.array(~(unlisted | duplicate)))
    parquet.write_parquet(copy, seen, Table(table.name, table.row, columns), told)
    return copy.resolve()  # as DuckDB names it


def _unseen(keys: pa.ChunkedArray, name: str, folder: Path, groups: Path | None) -> tuple[Mask, Mask]:
    """Of each row of a part whether it is not listed, and whether its picture is a duplicate."""
    unlisted = is_left_out(keys, read_left_out(folder).get(name, {}))
    duplicate = pc.is_in(keys, duplicates_in(groups, name)).to_numpy()
    return unlisted, duplicate & ~unlisted


def whole_file(file: Path) -> Path:
    """The file that a copy of `listed_only` was made from; any other as it is."""
    return Path(_told(file, _WHOLE)) if file.parent.name == LISTED else file


def _told(file: Path, name: str) -> str:
    metadata: dict[bytes, bytes] = parquet.open_parquet(file).schema_arrow.metadata or {}
    return metadata[name.encode()].decode()


def with_unseen(pairs: pa.Table, file: Path) -> pa.Table:
    """The pairs of a copy of `listed_only` with a row for each text that it lacks, in the order of the whole file."""
    if file.parent.name != LISTED:
        return pairs
    whole = _texts(whole_file(file))
    told = parquet.read_metadata(file)
    groups = Path(told[_GROUPS.encode()].decode()) if _GROUPS.encode() in told else None
    unlisted, duplicate = _unseen(whole["key"], file.name, Path(_told(file, LEFT_OUT)), groups)
    unseen = unlisted | duplicate
    places = np.empty(len(whole), np.int64)
    places[~unseen] = np.arange(len(pairs))
    places[unseen] = len(pairs) + np.arange(unseen.sum())
    reasons = np.where(unlisted, NOT_LISTED, DUPLICATE_PICTURE)[unseen]
    decided = pairs.select(PAIRS.schema.names).cast(PAIRS.schema)
    return pa.concat_tables([decided, _dropped(whole.filter(pa.array(unseen)), reasons.tolist())]).take(places)


def _texts(file: Path) -> pa.Table:
    """The texts of a file of captions, or of the pictures of a file of images, as pairs have them."""
    names = parquet.open_parquet(file).schema_arrow.names
    if "source" in names:
        return parquet.read_parquet(file, ["key", "source", "candidate", "caption", "itm_score"])
    rows = parquet.read_parquet(file, ["key", "caption", "status"])
    rows = rows.filter(pc.equal(rows["status"], "success"))
    web = {"source": pa.repeat("web", len(rows)), "candidate": pa.repeat(pa.scalar(0, pa.int16()), len(rows))}
    return pa.table({"key": rows["key"], **web, "caption": rows["caption"]})


def _dropped(texts: pa.Table, reasons: Sequence[str]) -> pa.Table:
    filled = {name: pa.nulls(len(texts), PAIRS.schema.field(name).type) for name in PAIRS.schema.names}
    same = {name: texts[name] for name in texts.column_names}
    same["caption"] = pc.utf8_trim_whitespace(pc.fill_null(texts["caption"], ""))
    why = {"kept": pa.repeat(False, len(texts)), "reason": pa.array(reasons, pa.string())}
    return pa.table({**filled, **same, **why}).select(PAIRS.schema.names).cast(PAIRS.schema)
