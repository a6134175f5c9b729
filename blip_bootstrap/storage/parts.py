"""Parts (files of a table) that several artifacts have in common, and rows of them that a later list left out.

An artifact that grows out of another borrows its parts: locally each is a relative link to the file in the folder that
made it, its home, and the MANIFEST names that home (`at`), for stores and copies without links.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blip_bootstrap.schemas.keys import ROWS_PER_PART, by_number
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.run_folder import ARTIFACTS, read_json
from blip_bootstrap.stores.store import borrowed_note, store_of

LEFT_OUT = "left_out.json"
"""In an artifact of images: rows of its parts that are not rows of its lists any more, where there are such."""

MOST_LINKS = 40
"""Links that are followed one after the other, as Linux does."""

Spans = Mapping[str, Sequence[tuple[int, int]]]
"""First and last position (the last five digits of the key) of the rows of each kind in a part. `removed`: the row is
in no list any more. `retried`: another row, of a later part, is the same row of the list, fetched again."""


def borrow(folder: Path, part: Path) -> None:
    """Make `part`, which lies in another artifact of the run, a part of the one in `folder`, by its own name."""
    place, home = folder / part.name, home_of_part(part)
    if not place.exists():
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(home, folder.absolute()))
        if store_of(folder) and (at := borrowed_from(place)):  # links are not there
            note = borrowed_note(place)
            note.parent.mkdir(exist_ok=True)
            write_whole(note, at)


def home_of_part(part: Path) -> Path:
    """The file that a part is: itself, or that of the artifact from which it is borrowed.

    Where the folder of `part` is a run's link to an artifact (`images`), that artifact's file. Other links of folders
    are not followed: one that lies on another disk has its place among the artifacts all the same.
    """
    return Path(_home_of(str(part.absolute())))


def _home_of(part: str) -> str:
    """As texts: it is asked of each of 100,000 parts, and paths take four times as long."""
    for _ in range(MOST_LINKS):
        try:
            to = os.readlink(part)  # noqa: PTH115 - as above
        except OSError:  # no link
            break
        if to.startswith("/"):
            break
        part = os.path.normpath(f"{_pointed_to(part.rpartition('/')[0])}/{to}")
    return part


def _pointed_to(folder: str) -> str:
    """The artifact that a run's link shows; any other folder as it is."""
    try:
        to = os.readlink(folder)  # noqa: PTH115 - as above
    except OSError:
        return folder
    return folder if to.startswith("/") else os.path.normpath(f"{folder.rpartition('/')[0]}/{to}")


def borrowed_from(part: Path) -> str | None:
    """Where the file of a borrowed part lies, from the run's root, as a MANIFEST has it; None for an artifact's own."""
    own = str(part.absolute())
    home = _home_of(own)
    root, among, place = home.rpartition(f"/{ARTIFACTS}/")
    return f"{ARTIFACTS}/{place}" if among and home != own and own.startswith(root + among) else None


def write_left_out(folder: Path, left_out: Mapping[str, Spans]) -> None:
    """Note the rows that are left out, by the names of parts; nothing is written where there are none."""
    kinds = {
        part: {kind: [*map(list, rows)] for kind, rows in spans.items() if rows} for part, spans in left_out.items()
    }
    if found := {part: spans for part in sorted(kinds, key=by_number) if (spans := kinds[part])}:
        write_whole(folder / LEFT_OUT, json.dumps(found) + "\n")


def read_left_out(folder: Path) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """The rows that are left out, by the names of parts; empty where none are."""
    found = read_json(folder / LEFT_OUT) or {}
    return {part: {kind: [(a, b) for a, b in rows] for kind, rows in spans.items()} for part, spans in found.items()}


def of_rows(spans: Spans, keys: pa.ChunkedArray | pa.Array) -> dict[str, list[tuple[int, int]]]:
    """The spans of those rows alone that have these keys, of a part; without kinds that have none of them."""
    found = {}
    for kind, rows in spans.items():
        at = np.unique(_positions(keys)[is_left_out(keys, {kind: rows})])
        if len(at):
            runs = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)
            found[kind] = [(int(run[0]), int(run[-1])) for run in runs]
    return found


def _positions(keys: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = np.asarray(keys.cast(pa.int64())) % ROWS_PER_PART
    return found


def is_left_out(keys: pa.ChunkedArray | pa.Array, spans: Spans) -> npt.NDArray[np.bool_]:
    """Of each row of a part, by its key, whether it is in one of the spans."""
    at = _positions(keys)
    ends = np.array(sorted(span for rows in spans.values() for span in rows), np.int64).reshape(-1, 2)
    if not len(ends):
        return np.zeros(len(at), np.bool_)
    place = np.searchsorted(ends[:, 0], at, side="right") - 1
    found: npt.NDArray[np.bool_] = (place >= 0) & (at <= ends[np.maximum(place, 0), 1])
    return found
