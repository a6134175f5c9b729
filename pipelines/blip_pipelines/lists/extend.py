"""A download of the lists of another one and of more: what that one has is taken as it is, and none of it is read.

A million rows of ten are compared by their hashes, and a thousand parts are links.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from blip_bootstrap.config import DownloadConfig
from blip_bootstrap.progress import tell
from blip_bootstrap.reading.places import digest_of_files, files_of
from blip_bootstrap.reading.records import is_list_file
from blip_bootstrap.schemas.keys import ROWS_PER_PART, number_of
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.manifest import digest_of_recipe
from blip_bootstrap.storage.parts import borrow, read_left_out
from blip_bootstrap.storage.run_folder import named_files, read_json
from blip_bootstrap.storage.withdrawn import withdrawn_of
from blip_pipelines.bring.index import PictureRows
from blip_pipelines.lists.known import KNOWN, rows_of
from blip_pipelines.lists.pool import ROWS, free_number, part_names
from blip_pipelines.lists.shards import Cutter
from blip_pipelines.lists.url_lists import AnyList, num_rows, write_rows_of

LISTS = "lists.json"
"""In `KNOWN`: the digests of the lists whose rows the artifact has, with which limit, and how many there are."""


def digests_of(lists: Sequence[AnyList]) -> list[str] | None:
    """For each list the digest of its files and of how they are read; None where some are pictures."""
    if any(isinstance(one, PictureRows) for one in lists):
        return None
    return [_digest_of(one) for one in lists]


def _digest_of(urls: AnyList) -> str:
    settings = {} if isinstance(urls, PictureRows) else urls.model_dump(mode="json", exclude={"path"})
    content = digest_of_files(files_of(urls.path, is_list_file))
    return digest_of_recipe({"settings": settings, "name": urls.name, "content": content})


def note_lists(out: Path, lists: Sequence[str], limit: int | None, num_listed: int, counts: dict[str, Any]) -> None:
    """Note of which lists an artifact is, for those that grow out of it."""
    told = {"lists": [*lists], "limit": limit, "num_listed": num_listed, "rows": counts}
    write_whole(out / KNOWN / LISTS, json.dumps(told, sort_keys=True) + "\n")


def noted_lists(folder: Path) -> dict[str, Any]:
    """What `note_lists` has noted; empty where it has not."""
    return read_json(folder / KNOWN / LISTS) or {}


def extend(
    db: duckdb.DuckDBPyConnection,
    out: Path,
    lists: Sequence[AnyList],
    digests: Sequence[str],
    config: DownloadConfig,
    kin: Sequence[Path],
) -> tuple[list[Path], int, str] | None:
    """Take all that the first of `kin` has into `out`, and cut the lists that it has not into shards.

    Returns these, the number of rows of all lists, and the name of that artifact; None where it does not have all that
    the others have, one of its lists is there no more, or a row that was in no list any more is in one again. Then
    `out` is as it was.
    """
    base = kin[0] if kin else out
    noted, names = noted_lists(base), [*(named_files(base) or ())]
    added = _added(lists, digests, noted.get("lists", []))
    if not added or noted.get("limit") != config.limit or part_names(out) or part_names(out / ROWS):
        return None
    if not all(_has_all(base, {*names}, one) for one in kin):
        return None
    _leave_out(db, base)
    known = [base / KNOWN / name for name in part_names(base / KNOWN)]
    size, first, gone = config.rows_per_shard, free_number([out, *kin]), withdrawn_of(out)
    cutter = Cutter(out / ROWS, out / KNOWN, size, config.max_text_chars, first, gone)
    made = cutter.cut(db, added, 0, config.limit, known)
    if _comes_back(db, known, cutter.known):
        for folder in (out / ROWS, out / KNOWN):
            shutil.rmtree(folder, ignore_errors=True)
        db.execute("DROP TABLE left_out")  # of the ids of parts; the way by rows numbers lines
        return None
    for name in names:
        borrow(out, base / name)
        if (base / ROWS / name).exists():
            borrow(out / ROWS, base / ROWS / name)
        else:
            write_rows_of(base / name, out / ROWS / name)
    for file in known:
        borrow(out / KNOWN, file)
    num_new = sum(map(num_rows, made))
    tell(f"  download  {len(names):,} parts as they are, {num_new:,} new rows")
    return made, int(noted["num_listed"]) + num_new, base.name


def _added(lists: Sequence[AnyList], digests: Sequence[str], before: Sequence[str]) -> list[AnyList]:
    """The lists that were not there before; none where one that was is gone."""
    left, added = Counter(before), list[AnyList]()
    for one, digest in zip(lists, digests, strict=True):
        if left[digest]:
            left[digest] -= 1
        else:
            added.append(one)
    return [] if left.total() or not before else added


def _has_all(base: Path, names: set[str], other: Path) -> bool:
    """Whether each part of `other`, and what it is about to fetch, is a part of `base`, and that one there."""
    if base == other:
        return all((base / name).exists() for name in names)
    same = all(name in names and (other / name).resolve() == (base / name).resolve() for name in part_names(other))
    return same and {*part_names(other / ROWS)} <= names


def _leave_out(db: duckdb.DuckDBPyConnection, base: Path) -> None:
    """The table `left_out`: rows of `base` that are in no list, or are earlier tries."""
    spans = [
        (number_of(part), *span) for part, kinds in read_left_out(base).items() for of in kinds.values() for span in of
    ]
    ids = [np.arange(first, last + 1) + number * ROWS_PER_PART for number, first, last in spans]
    db.register("ids", pa.table({"id": np.concatenate([np.empty(0, np.int64), *ids])}))
    db.execute("CREATE OR REPLACE TABLE left_out AS FROM ids")
    db.unregister("ids")


def _comes_back(db: duckdb.DuckDBPyConnection, known: Sequence[Path], new: Sequence[Path]) -> bool:
    """Whether a new row is one that was left out, whose picture is there."""
    sql = (
        f"SELECT 1 FROM ({rows_of(new)}) SEMI JOIN (SELECT high, low FROM ({rows_of(known)}) SEMI JOIN left_out "
        "USING (id)) USING (high, low) WHERE NOT rejected LIMIT 1"
    )
    return bool(db.execute(sql).fetchall())
