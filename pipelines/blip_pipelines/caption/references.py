"""Reference pictures, which a text is compared with: does it fit its own picture better than these?

They are the first readable pictures of the images, the same for all texts of a run but for the text's own picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from blip_bootstrap.errors import InputError
from blip_bootstrap.storage.parquet import open_parquet, parquet_files, reading
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


def first_readable(rows: Iterable[dict[str, Any]], count: int) -> list[Reference]:
    """The first `count` pictures, and one more, among rows with `key`, `status` and `jpg` that can be decoded."""
    found: list[Reference] = []
    for row in rows:
        if row["status"] == "success":
            with suppress(InputError):
                decode_image(row["jpg"] or b"", row["key"])
                found.append(Reference(row["key"], row["jpg"]))
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
