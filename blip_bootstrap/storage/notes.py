"""Notes beside the parts of what is half-made: what the worker that wrote a part knows of it, so that nobody opens it.

A note is written before its part gets its name, and counts only where it agrees with the part in size. All go once the
MANIFEST is there, which has what they say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.stores.store import fetched, gone, size_of

STATS = "_stats.json"
"""The end of the name of img2dataset's file of counts and times beside a part."""

NOTES = ".notes"
"""The hidden folder beside parts that holds their notes."""


class Hashing:
    """A file to write to that hashes what is written; `size` is in bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sha256, self.size, self.closed = file, hashlib.sha256(), 0, False

    def write(self, data: Any) -> int:
        """Write bytes, or whatever has them as a buffer."""
        self._sha256.update(data)
        self.size += len(memoryview(data).cast("B"))
        return self._file.write(data)

    def flush(self) -> None:
        """Hand to the system what was written."""
        self._file.flush()

    def close(self) -> None:
        """Write no more; the file itself stays open."""
        self.closed = True

    @property
    def hexdigest(self) -> str:
        """The sha256 of all that was written."""
        return self._sha256.hexdigest()


@dataclass(frozen=True)
class Note:
    """What is known of a part: bytes, sha256, rows, and how many of its rows are of each kind that its step counts.

    `same`: the digest of its columns without times (`digest_of_rows`), for a table that has such.
    """

    bytes: int
    sha256: str
    rows: int
    counts: Mapping[str, int]
    same: str | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """The part as a MANIFEST has it, without its name."""
        known = {"bytes": self.bytes, "sha256": self.sha256, "rows": self.rows, "counts": dict(self.counts)}
        return known | ({"same": self.same} if self.same else {})


def note_path(part: Path) -> Path:
    """Where the note of a part lies."""
    return part.parent / NOTES / f"{part.name}.json"


def write_note(part: Path, note: Note) -> None:
    """Leave a note beside a part that is about to get its name."""
    path = note_path(part)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(note.entry | {"check": _check(part.name, note.entry)}))


def drop_note(part: Path) -> None:
    """Take the note away that a part had before it was written again."""
    if (path := note_path(part)).exists():
        gone(path)


def read_note(part: Path) -> Note | None:
    """The note of a part; None where there is none that fits the part, which then is to be read itself."""
    try:
        found = json.loads(fetched(note_path(part)).read_text(encoding="utf-8"))
        note = Note(found["bytes"], found["sha256"], found["rows"], found["counts"], found.get("same"))
        is_whole = found["check"] == _check(part.name, note.entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return note if is_whole and note.bytes == size_of(part) else None


def _check(name: str, entry: Mapping[str, Any]) -> str:
    """So that a damaged note is none."""
    return hashlib.sha256(json.dumps([name, entry], sort_keys=True).encode()).hexdigest()[:16]


def digest_in(entry: Mapping[str, Any]) -> str:
    """By what a file of a MANIFEST is known in recipes: its sha256, or that of its rows without times."""
    return str(entry.get("same") or entry["sha256"])


def known_by(files: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Name and digest of each file of a MANIFEST by which recipes know what was made; files of times alone are none."""
    return [[str(file["name"]), digest_in(file)] for file in files if not str(file["name"]).endswith(STATS)]


def digest_of_rows(rows: pa.Table, left_out: Sequence[str]) -> str:
    """The sha256 of a table's values without some columns, however its file came to be.

    10,000 pictures of 30 kB take 0.3 s where the processor has instructions for it.
    """
    whole = hashlib.sha256()
    for name in rows.column_names:
        if name not in left_out:
            cells = rows[name].to_pylist()
            if pa.types.is_binary(rows[name].type):
                for cell in cells:
                    whole.update(f"{-1 if cell is None else len(cell)} ".encode())
                    whole.update(cell or b"")
            else:
                whole.update(json.dumps([name, cells], default=str).encode())
    return whole.hexdigest()


def values(column: Any) -> dict[str, int]:
    """How often each text is in a column of Arrow, nulls left out."""
    found = column.drop_null().value_counts().to_pylist()
    return {str(one["values"]): int(one["counts"]) for one in found}


def total(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The sum of several parts' counts."""
    found: dict[str, int] = {}
    for one in counts:
        for name, number in one.items():
            found[name] = found.get(name, 0) + number
    return found
