"""Finds the parts that an artifact of images and its kin have, and tells of each row whether it is one of the lists."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from blip_bootstrap.errors import InputError
from blip_bootstrap.paths import spill_folder
from blip_bootstrap.progress import tell
from blip_bootstrap.schemas.keys import ROWS_PER_PART, by_number, is_part, number_of, part_name
from blip_bootstrap.storage.parquet import read_parquet
from blip_bootstrap.storage.run_folder import named_files
from blip_bootstrap.stores.store import gone

ROWS = "rows"
"""In an artifact of images: for each part a file of the same name with its rows of the lists (table `shard`), by which
it can be fetched again. One whose part is not there is a shard that is still to be fetched."""

BEFORE = ".lists"
"""Where versions before this one had shards, while the download was at work."""

MEMORY_LIMIT = "256MB"
"""Of DuckDB, which keeps on disk what is more."""

_COLUMNS = ["key", "uid", "status", "error_class", "cut_from_chars"]

KIND = "CASE status WHEN 'rejected' THEN coalesce(error_class, '') WHEN 'withdrawn' THEN status ELSE '' END"
"""SQL of why a row is not fetched; empty where it is. Of a withdrawn row nothing else is known, so that such rows are
told apart by their number alone."""

CURRENT = """
CREATE OR REPLACE TABLE standing AS
WITH current AS (
    SELECT uid, coalesce(min(id) FILTER (status = 'success'), max(id)) AS id FROM pool WHERE kind = '' GROUP BY uid
)
SELECT pool.*, if(pool.id = current.id, 1, 0) AS nth FROM pool JOIN current USING (uid) WHERE kind = ''
UNION ALL
SELECT *, row_number() OVER (PARTITION BY uid, kind ORDER BY id) FROM pool WHERE kind <> ''
"""
"""Of the tries at one row of the lists the current one has `nth` 1 and the others 0: the first that succeeded, else the
last. Rows that were rejected (blank, repeated) are told from others of the same uid by their number alone."""


@dataclass(frozen=True)
class Pool:
    """All that is fetched already: `parts` by name, each once; and shards, by name, whose parts nobody has."""

    parts: Mapping[str, Path]
    shards: Mapping[str, Path]


def scratch_folder(out: Path) -> Path:
    """Where scratch files for `out` lie: not in the run, which may be on a store; what a kill left is found again."""
    spill = spill_folder()
    if spill is None:
        return out / ".growth"
    return spill / f"growth-{hashlib.sha256(str(out.absolute()).encode()).hexdigest()[:16]}"


@contextmanager
def scratch(out: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB of its own for what is to become `out`, in a folder for temporary files, which goes with it."""
    folder = scratch_folder(out)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": str(folder / "spill"),
        "memory_limit": MEMORY_LIMIT,
        "preserve_insertion_order": False,
    }
    try:
        with duckdb.connect(str(folder / "pool.duckdb"), config=settings) as db:
            yield db
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def part_names(folder: Path) -> list[str]:
    """The names of the parts, or shards, in a folder, in order; a link to what is not there is none."""
    names = (path.name for path in folder.glob("part-*.parquet") if path.exists())
    return sorted(filter(is_part, names), key=by_number)


def free_number(folders: Sequence[Path]) -> int:
    """The least number such that no part and no shard of these artifacts has it, or one above it."""
    of_shards = (folder / name for folder in folders for name in (ROWS, BEFORE))
    return 1 + max((number_of(name) for folder in (*folders, *of_shards) for name in part_names(folder)), default=-1)


def fill_pool(db: duckdb.DuckDBPyConnection, out: Path, kin: Sequence[Path]) -> Pool:
    """Find the parts of `out` and of `kin`, and put what is known of their rows into the table `pool` of `db`.

    A part that cannot be read is left aside, and in `out` taken away. Of several of one name one is taken (`_best`).
    """
    create_pool(db)
    folders, parts = [out, *kin], dict[str, Path]()
    for name, places in sorted(_places(folders).items(), key=lambda found: by_number(found[0])):
        read, errors = _read_all(places)
        for place in errors:
            if place.parent == out:
                gone(place)
        for error in [] if read else errors.values():
            tell(f"  download  {error}")
        if read:
            parts[name] = _best(read)
            insert(db, read[parts[name]], is_made_in(out, parts[name]))
    shards: dict[str, Path] = {}
    for folder in folders:
        if folder == out or named_files(folder) is not None:  # a half-made one fetches its shards itself
            lost = {name: folder / ROWS / name for name in part_names(folder / ROWS) if name not in parts}
            shards = lost | shards
    return Pool(parts, shards)


def create_pool(db: duckdb.DuckDBPyConnection) -> None:
    """Make the table `pool`, one row per row of a part: `id` is its key as a number.

    `kind` is why the row was rejected, or that it was withdrawn, and empty for one that was fetched or tried; `is_own`:
    it was made in this artifact.
    """
    db.execute(
        "CREATE OR REPLACE TABLE pool (id BIGINT, uid VARCHAR, kind VARCHAR, status VARCHAR, error_class VARCHAR, "
        "is_cut BOOLEAN, is_own BOOLEAN)"
    )


def insert(db: duckdb.DuckDBPyConnection, rows: pa.Table, is_own: bool = True) -> None:
    """Put the rows of a part into the table `pool`; those of parts that are older lack `cut_from_chars`."""
    is_cut = "cut_from_chars IS NOT NULL" if "cut_from_chars" in rows.column_names else "false"
    db.register("loaded", rows)
    db.execute(
        f"INSERT INTO pool SELECT key::BIGINT, coalesce(uid, ''), {KIND}, status, error_class, {is_cut}, ? FROM loaded",
        [is_own],
    )
    db.unregister("loaded")


def read_columns(part: Path) -> pa.Table:
    """What the table `pool` has of a part. Raises InputError where it cannot be read."""
    return read_parquet(part, _COLUMNS, "its rows of the lists are fetched again")


def spans_of(db: duckdb.DuckDBPyConnection, condition: str) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """First and last position of the rows of the table `placed` that meet a condition, by part and place."""
    found = db.execute(
        f"SELECT id // {ROWS_PER_PART} AS number, place, min(id) % {ROWS_PER_PART}, max(id) % {ROWS_PER_PART} FROM "
        "(SELECT id, place, id - row_number() OVER (PARTITION BY place ORDER BY id) AS run FROM placed "
        f"WHERE {condition}) GROUP BY number, place, run ORDER BY 1, 2, 3"
    ).fetchall()
    spans: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for number, place, first, last in found:
        spans.setdefault(part_name(number), {}).setdefault(place, []).append((first, last))
    return spans


def is_made_in(folder: Path, part: Path) -> bool:
    """Whether a part was made in this artifact; it may be there as a link."""
    return part.resolve().parent == folder.resolve()


def _places(folders: Sequence[Path]) -> dict[str, dict[Path, None]]:
    """Where the parts of each name lie, in the order of the folders; several links to one file count once."""
    found: dict[str, dict[Path, None]] = {}
    homes = set[Path]()
    for folder in folders:
        for name in part_names(folder):
            if (home := (folder / name).resolve()) not in homes:
                homes.add(home)
                found.setdefault(name, {})[folder / name] = None
    return found


def _read_all(places: Iterable[Path]) -> tuple[dict[Path, pa.Table], dict[Path, InputError]]:
    """The parts that can be read, and what is wrong with the others."""
    read, errors = dict[Path, pa.Table](), dict[Path, InputError]()
    for place in places:
        try:
            read[place] = read_columns(place)
        except InputError as error:
            errors[place] = error
    return read, errors


def _best(read: Mapping[Path, pa.Table]) -> Path:
    """Which of several parts of one name is taken: the one with the most rows among those that agree with the first.

    A part of which a limit took some rows agrees with the whole one. Parts of other lists, of runs before parts had
    their numbers for themselves, do not: the first, that of the artifact which is shown, counts.
    """
    first, *others = read
    known = _uids(read[first]) if others else {}
    best = first
    for other in others:
        if any(known.get(key, uid) != uid for key, uid in _uids(read[other]).items()):
            tell(f"  download  {other}: left aside, it has other rows than {first} under the same keys")
        elif len(read[other]) > len(read[best]):
            best = other
    return best


def _uids(rows: pa.Table) -> dict[str, str]:
    return dict(zip(rows["key"].to_pylist(), rows["uid"].to_pylist(), strict=True))
