"""The pictures by which the scores are measured, and texts that do not belong to them."""

from __future__ import annotations

import hashlib
import heapq
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.config import CheckFilterConfig
from blip_bootstrap.storage.parquet import parquet_files, read_parquet

LEAST_PICTURES = 50
"""A validation tenth of fewer pictures is too few to measure by, where there is a held-out set."""

MOST_FILES = 8
"""Files of images, evenly spaced, that wrong texts are drawn from."""


@dataclass(frozen=True)
class KnownPicture:
    """A picture and what people wrote about it."""

    key: str
    name: str
    captions: tuple[str, ...]
    jpg: bytes


@dataclass(frozen=True)
class Chosen:
    """The pictures to measure by, the set they are from, and whether a model of the round was fine-tuned on them."""

    pictures: list[KnownPicture]
    set: str
    trained_on: bool = False


def choose_pictures(human: Path | None, held_out: Path | None, config: CheckFilterConfig) -> Chosen:
    """At most `config.pictures` pictures that no fine-tuning saw, drawn by the seed; if need be, ones that it saw."""
    if human and config.untrained == "validation":
        found = _drawn(human, config, validation=True)
        if len(found) >= LEAST_PICTURES or not held_out:
            return Chosen(found, "human, validation tenth")
    if held_out:
        return Chosen(_drawn(held_out, config), "held_out")
    assert human, "the layout has no such step without a set"
    return Chosen(_drawn(human, config), "human", trained_on=config.untrained != "all")


def _drawn(folder: Path, config: CheckFilterConfig, validation: bool = False) -> list[KnownPicture]:
    """Pictures with a caption, those that the seed puts first; in the order of their keys."""
    keys = (
        row["key"]
        for file in parquet_files(folder)
        for row in _usable(read_parquet(file, ["key", "captions", "status"])).to_pylist()
        if _said(row["captions"]) and (not validation or zlib.crc32(row["key"].encode()) % 10 == 0)  # training's split
    )
    first = heapq.nsmallest(config.pictures, keys, key=lambda key: (_place(config.seed, key), key))
    wanted, found = pa.array(first, pa.string()), []
    for file in parquet_files(folder):
        if pc.any(pc.is_in(read_parquet(file, ["key"])["key"], wanted)).as_py():
            rows = _usable(read_parquet(file, ["key", "name", "captions", "status", "jpg"]))
            found += rows.filter(pc.is_in(rows["key"], wanted)).to_pylist()
    return [
        KnownPicture(row["key"], row["name"], tuple(_said(row["captions"])), row["jpg"])
        for row in sorted(found, key=lambda row: str(row["key"]))
    ]


def _usable(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.equal(rows["status"], "success")).filter(pc.field("captions").is_valid())


def _said(captions: Sequence[str]) -> list[str]:
    return [folded for text in captions if (folded := " ".join((text or "").split()))]


def other_texts(images: Path, pictures: Sequence[KnownPicture], seed: int) -> list[str | None]:
    """For each picture a web text of the images that is none of its captions; None where there is none.

    Web texts, since the wrong texts that a filter meets are worded like them: file names, shop titles, slogans.
    """
    texts = heapq.nsmallest(2 * len(pictures), _web_texts(images), key=lambda one: (_place(seed, one[0]), one))
    given: list[str | None] = []
    for at, picture in enumerate(pictures):
        own = {text.lower() for text in picture.captions}
        turn = [*texts[at:], *texts[:at]]
        given.append(next((text for _, text in turn if text.lower() not in own), None))
    return given


def _web_texts(images: Path) -> Iterator[tuple[str, str]]:
    """Keys and web texts of images that were fetched, of some of their files."""
    files = parquet_files(images)
    some = [files[at * len(files) // MOST_FILES] for at in range(MOST_FILES)] if len(files) > MOST_FILES else files
    for file in some:
        rows = read_parquet(file, ["key", "caption", "status"])
        rows = rows.filter(pc.equal(rows["status"], "success"))
        for key, text in zip(rows["key"].to_pylist(), rows["caption"].to_pylist(), strict=True):
            if folded := " ".join((text or "").split()):
                yield key, folded


def _place(seed: int, key: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest()
