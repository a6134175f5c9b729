"""Reference pictures, which a text is compared with: does it fit its own picture better than these?

They are the first readable pictures of the images, the same for all texts of a run but for the text's own picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from blip_bootstrap.errors import InputError
from blip_bootstrap.storage.parquet import open_parquet, parquet_files, reading
from blip_pipelines.failures.aside import Aside, Died
from blip_pipelines.failures.limits import Limits
from blip_training.data.decode import decode_image

ROWS_PER_READ = 128


@dataclass(frozen=True)
class Reference:
    """A picture by its key in the images, encoded as it is stored there."""

    key: str
    jpg: bytes


def pick_references(images: Path, count: int) -> list[Reference]:
    """The references of a folder of images: its first `count` readable pictures and the next one; none for 0.

    The next one stands in for the picture of a text that is itself a reference.
    """
    return first_readable(_rows(images), count) if count else []


def pick_carefully(images: Path, count: int, limits: Limits) -> list[Reference]:
    """As `pick_references`, decoded in a child process: a picture that kills or hangs it is no reference."""
    if not count:
        return []
    found: list[Reference] = []
    aside, rows = Aside("caption", reading_pictures, limits), _rows(images)
    while len(found) < count + 1 and (some := list(islice(rows, ROWS_PER_READ))):
        for batch, made in aside.each([(row["key"], row["jpg"]) for row in some], ROWS_PER_READ):
            readable = [False] if isinstance(made, Died) else made
            found += [Reference(*row) for row, is_readable in zip(batch, readable, strict=True) if is_readable]
    aside.close()
    return found[: count + 1]


def reading_pictures() -> Callable[[list[tuple[str, bytes]]], list[bool]]:
    """In the child: the function that tells which pictures can be decoded."""
    return lambda rows: [_is_readable(jpg, key) for key, jpg in rows]


def _is_readable(jpg: bytes | None, key: str) -> bool:
    try:
        decode_image(jpg or b"", key)
    except InputError:
        return False
    return True


def first_readable(rows: Iterable[dict[str, Any]], count: int) -> list[Reference]:
    """The first `count` pictures, and one more, among rows with `key`, `status` and `jpg` that can be decoded."""
    found: list[Reference] = []
    for row in rows:
        if row["status"] == "success":
            found += [Reference(row["key"], row["jpg"])] if _is_readable(row["jpg"], row["key"]) else []
        if len(found) > count:
            break
    return found


def _rows(images: Path) -> Iterator[dict[str, Any]]:
    for part in parquet_files(images):
        with reading(part), open_parquet(part) as file:
            for batch in file.iter_batches(ROWS_PER_READ, columns=["key", "status", "jpg", "same_as"]):
                rows = batch.filter(pc.equal(batch["status"], "success")).to_pylist()
                yield from (row for row in rows if not row.get("same_as"))


def keys_of(references: Sequence[Reference]) -> dict[str, int]:
    """The place of each reference by its key."""
    return {reference.key: place for place, reference in enumerate(references)}
