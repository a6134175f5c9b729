"""Parts (files of a table) that several artifacts have in common, and rows of them that a later list left out.

An artifact that grows out of another borrows its parts: locally each is a relative link to the file in the folder that
made it, its home, and the MANIFEST names that home (`at`), for stores and copies without links.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.run_folder import read_json

LEFT_OUT = "left_out.json"
"""In an artifact of images: rows of its parts that are not rows of its lists any more, where there are such."""

Spans = Mapping[str, Sequence[tuple[int, int]]]
"""First and last position of the rows of each kind in a part. `removed`: the row is in no list any more. `retried`:
another row, of a later part, is the same row of the list, fetched again."""


def borrow(folder: Path, part: Path) -> None:
    """Make `part`, which lies in another artifact of the run, a part of the one in `folder`, under its own name."""
    place = folder / part.name
    if not place.exists():
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(part.resolve(), folder.resolve()))


def write_left_out(folder: Path, left_out: Mapping[str, Spans]) -> None:
    """Note the rows that are left out, by the names of parts; nothing is written where there are none."""
    kinds = {
        part: {kind: [*map(list, rows)] for kind, rows in spans.items() if rows} for part, spans in left_out.items()
    }
    if found := {part: spans for part, spans in sorted(kinds.items()) if spans}:
        write_whole(folder / LEFT_OUT, json.dumps(found) + "\n")


def read_left_out(folder: Path) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """The rows that are left out, by the names of parts; empty where none are."""
    found = read_json(folder / LEFT_OUT) or {}
    return {part: {kind: [(a, b) for a, b in rows] for kind, rows in spans.items()} for part, spans in found.items()}
