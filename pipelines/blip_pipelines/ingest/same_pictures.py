"""Finds pictures that are in two of the sets (web, human, held-out), so that training can leave them out."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from blip_bootstrap.config import SamePicturesConfig
from blip_bootstrap.machine import num_cores
from blip_bootstrap.progress import Progress
from blip_bootstrap.storage.parquet import open_parquet, parquet_files, reading, rows_to_table, write_parquet
from blip_bootstrap.storage.tables import SAME_PICTURES

WEB_PART = "part-00000.parquet"

HUMAN_PART = "human.parquet"
"""A file of its own: what is trained on the human set alone does not depend on a list that grows."""

ROWS_AT_ONCE = 500

KINDS = {("human", "held_out"): "held_out_in_human", ("web", "held_out"): "held_out_in_web",
         ("web", "human"): "human_in_web"}  # fmt: skip
"""The name of each kind of overlap, by the set of the picture and the other set that has it too."""

Row = dict[str, Any]

Digests = dict[str, list[str]]
"""The sha256 digests of each picture, by its key: of its bytes as read, if known, and of its bytes as stored."""

log = logging.getLogger(__name__)


def find_same_pictures(
    out: Path, images: Path, human: Path | None, held_out: Path | None, *, config: SamePicturesConfig
) -> dict[str, int]:
    """Write the table `same_pictures`: web and human pictures that are also in the human or the held-out set.

    Two pictures are the same where the sha256 of their bytes is, as fetched or read, or as stored; a resized or
    re-encoded copy from elsewhere is not found. `config.leave_out` says which kinds training leaves out. Returns the
    number of pictures of each kind, and of those left out. Raises InputError where a table is damaged.
    """
    sets = {name: _read_set(folder) for name, folder in (("held_out", held_out), ("human", human)) if folder}
    rows = list(_among_human(sets.get("human", {}), sets.get("held_out", {})))
    known = {name: _keys_of(pictures) for name, pictures in sets.items()}
    files = parquet_files(images)
    with ThreadPoolExecutor(min(8, num_cores())) as pool, Progress("same pictures", len(files), "files") as bar:
        for found in pool.map(partial(_in_file, known=known), files):
            rows += found
            bar.advance(1)
    for row in rows:
        row["left_out"] = KINDS[row["set"], row["same_as"]] in config.leave_out
    for name, kind in ((HUMAN_PART, "human"), (WEB_PART, "web")):
        mine = [row for row in rows if row["set"] == kind]
        write_parquet(out / name, rows_to_table(mine, SAME_PICTURES), SAME_PICTURES)
    return _counts(rows)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _keys_of(pictures: Digests) -> dict[str | None, str]:
    """The key of the picture that has each digest."""
    return {digest: key for key, digests in pictures.items() for digest in digests}


def _read_set(folder: Path) -> Digests:
    """The digests of an annotated set. Tables written before the column sha256 have those of stored bytes alone."""
    return {
        row["key"]: [digest for digest in (row.get("sha256"), _digest(row["jpg"])) if digest]
        for file in parquet_files(folder)
        for row in _rows(file)
        if row["jpg"]
    }


def _rows(file: Path) -> Iterator[Row]:
    with reading(file), open_parquet(file) as parquet:
        for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=["key", "sha256", "jpg"]):
            yield from batch.to_pylist()


def _among_human(human: Digests, held_out: Digests) -> Iterator[Row]:
    """A row for each human picture that is in the held-out set too."""
    known = _keys_of(held_out)
    for key, digests in human.items():
        if same := next((known[digest] for digest in digests if digest in known), None):
            yield {"set": "human", "key": key, "same_as": "held_out", "same_key": same}


def _in_file(file: Path, known: Mapping[str, Mapping[str | None, str]]) -> list[Row]:
    """A row for each web picture of a file that is in one of the annotated sets too."""
    found = []
    for row in _rows(file):
        jpg = row["jpg"]
        if not jpg:
            continue
        digests = (row["sha256"], _digest(jpg))
        for other, keys in known.items():
            if same := next((keys[digest] for digest in digests if digest in keys), None):
                found.append({"set": "web", "key": row["key"], "same_as": other, "same_key": same})
    return found


def _counts(rows: list[Row]) -> dict[str, int]:
    kinds = Counter(KINDS[row["set"], row["same_as"]] for row in rows)
    left_out = Counter(name for name, _ in {(row["set"], row["key"]) for row in rows if row["left_out"]})
    counts = {kind: kinds[kind] for kind in KINDS.values()}
    if rows:
        words = ", ".join(f"{number:,} {kind.replace('_', ' ')}" for kind, number in counts.items() if number)
        log.warning("the same pictures in two sets: %s; %d are not trained on", words, left_out.total())
    return counts | {f"left_out_{name}": left_out[name] for name in ("web", "human")}
