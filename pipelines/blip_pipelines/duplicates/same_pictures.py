"""Finds pictures that are in two of the sets (web, human, held-out), so that training can leave them out."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.config import FindSamePicturesConfig
from blip_bootstrap.machine import num_cores
from blip_bootstrap.progress import Progress
from blip_bootstrap.schemas.tables import PICTURE_HASHES, SAME_PICTURES
from blip_bootstrap.storage.parquet import (
    open_parquet,
    parquet_files,
    read_parquet,
    reading,
    rows_to_table,
    write_parquet,
)
from blip_pipelines.duplicates.near import Words, pairs_between, to_words

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


@dataclass(frozen=True)
class Looks:
    """The hashes of the pictures of an annotated set, with their keys."""

    keys: list[str]
    words: Words


def find_same_pictures(
    out: Path, images: Path, human: Path | None, held_out: Path | None, hashes: Path | None = None,
    human_hashes: Path | None = None, held_out_hashes: Path | None = None, *, config: FindSamePicturesConfig,
) -> dict[str, int]:  # fmt: skip
    """Write the table `same_pictures`: web and human pictures that are also in the human or the held-out set.

    Two pictures are the same where the sha256 of their bytes is, as fetched or read, or as stored. A resized or
    re-encoded copy is found with `config.near_radius` alone, by the hashes of the three sets: one that differs in so
    many bits at most. `config.leave_out` says which kinds training leaves out. Returns the
    number of pictures of each kind, and of those left out. Raises InputError where a table is damaged.
    """
    sets = {name: _read_set(folder) for name, folder in (("held_out", held_out), ("human", human)) if folder}
    folders = {"held_out": held_out_hashes, "human": human_hashes}
    looks = {name: _looks(folder, config.least_quality) for name, folder in folders.items() if folder}
    rows = list(_among_human(sets.get("human", {}), sets.get("held_out", {})))
    if config.near_radius is not None and len(looks) == 2:
        rows += _alike("human", looks["human"], {"held_out": looks["held_out"]}, rows, config.near_radius)
    known = {name: _keys_of(pictures) for name, pictures in sets.items()}
    files = parquet_files(images)
    with ThreadPoolExecutor(min(8, num_cores())) as pool, Progress("same pictures", len(files), "files") as bar:
        for found in pool.map(partial(_in_file, known=known, looks=looks, hashes=hashes, config=config), files):
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


def _looks(hashes: Path, least_quality: int, name: str | None = None) -> Looks:
    """The pictures with structure of a folder of hashes, or of its file with this name."""
    files = [hashes / name] if name else parquet_files(hashes)
    rows = pa.concat_tables([PICTURE_HASHES.schema.empty_table(), *map(read_parquet, files)])
    rows = rows.filter(pc.greater_equal(rows["quality"], least_quality))
    return Looks(rows["key"].to_pylist(), to_words(rows["pdq"].to_pylist()))


def _alike(kind: str, mine: Looks, others: Mapping[str, Looks], same: Sequence[Row], radius: int) -> Iterator[Row]:
    """A row for each picture of a set that looks like one of the others and is not among the `same` ones already."""
    known = {(row["key"], row["same_as"]) for row in same}
    for other, looks in others.items():
        nearest: dict[int, tuple[int, int]] = {}
        for pairs in pairs_between(mine.words, looks.words, radius):
            for at, there, apart in zip(*(one.tolist() for one in vars(pairs).values()), strict=True):
                nearest[at] = min(nearest.get(at, (apart, there)), (apart, there))
        for at, (apart, there) in sorted(nearest.items()):
            if (mine.keys[at], other) not in known:
                row = {"set": kind, "key": mine.keys[at], "same_as": other, "same_key": looks.keys[there]}
                yield row | {"distance": apart}


def _in_file(
    file: Path,
    known: Mapping[str, Mapping[str | None, str]],
    looks: Mapping[str, Looks],
    hashes: Path | None,
    config: FindSamePicturesConfig,
) -> list[Row]:
    """A row for each web picture of a file that is in one of the annotated sets too, or looks like one there."""
    found = _equal_in_file(file, known)
    if hashes and config.near_radius is not None:
        mine = _looks(hashes, config.least_quality, file.name)
        found += _alike("web", mine, looks, found, config.near_radius)
    return found


def _equal_in_file(file: Path, known: Mapping[str, Mapping[str | None, str]]) -> list[Row]:
    """A row for each web picture of a file whose bytes are in one of the annotated sets."""
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
    near = Counter(KINDS[row["set"], row["same_as"]] for row in rows if row.get("distance") is not None)
    counts |= {f"near_{kind}": number for kind, number in sorted(near.items())}
    if rows:
        words = ", ".join(f"{number:,} {kind.replace('_', ' ')}" for kind, number in kinds.items() if number)
        log.warning("the same pictures in two sets: %s; %d are not trained on", words, left_out.total())
    return counts | {f"left_out_{name}": left_out[name] for name in ("web", "human")}
