"""The one writer and reader of Parquet: the declared schema, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from blip_bootstrap.errors import InputError, RunFailed
from blip_bootstrap.schemas.keys import by_number
from blip_bootstrap.schemas.schema import Table
from blip_bootstrap.storage.files import staged_file
from blip_bootstrap.storage.notes import Hashing, Note, digest_of_rows, write_note
from blip_bootstrap.storage.run_folder import named_files, place_of
from blip_bootstrap.stores.client import why
from blip_bootstrap.stores.store import open_input, sizes_there, store_of

WRITTEN_AT_ONCE = 1 << 20
"""Bytes that are collected before the system is asked to write them."""


def write_parquet(
    path: Path,
    data: pa.Table,
    table: Table,
    metadata: Mapping[str, str] | None = None,
    counts: Mapping[str, int] | None = None,
) -> None:
    """Write one Parquet file with the declared schema; it is either whole under `path` or not there.

    Column order and types are those of `table`, even where `data` is empty or a column is all null.
    `metadata` goes into the file's key-value metadata, so that a lone file still says where it comes from.
    With `counts` (an empty one will do) the file is a part of what a step makes: it is hashed while it is written, and
    a note beside it has its bytes, sha256, rows and these counts, so that nobody reads it for them (`notes.py`).
    Raises ValueError where `data` lacks a column, has one more, or a value does not fit the type.
    """
    missing = set(table.schema.names) ^ set(data.schema.names)
    if missing:
        raise ValueError(f"{table.name}: columns {sorted(missing)} are not those of the schema")
    schema = table.schema.with_metadata({"table": table.name, **(metadata or {})})
    rows, dictionary = data.select(schema.names).cast(schema), True if table.repeating is None else [*table.repeating]
    settings = {"use_dictionary": dictionary, "write_page_checksum": True}
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged_file(path) as staged, staged.open("wb", buffering=WRITTEN_AT_ONCE) as file:
        hashing = Hashing(file)
        with pq.ParquetWriter(hashing, schema, compression="zstd", **settings) as writer:
            writer.write_table(rows, row_group_size=table.rows_per_group)
        file.flush()
        if counts is not None:
            same = digest_of_rows(rows, table.dated) if table.dated else None
            write_note(path, Note(hashing.size, hashing.hexdigest, len(rows), counts, same))


def rows_to_table(rows: list[dict[str, object]], table: Table) -> pa.Table:
    """An Arrow table of the declared schema from rows as dicts; the list may be empty."""
    return pa.Table.from_pylist(rows, schema=table.schema)


def open_parquet(path: Path, footer: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """A Parquet file on this machine, whatever it is called, or of a run on a store: there columns are read by ranges.

    What is read is compared with its pages' checksums. A `footer` that is known is not read again. By a relative name
    pyarrow would take `~` for the home folder, and `word:` for the scheme of a URI.
    """
    there = None if path.exists() else open_input(path)
    source = path.absolute() if there is None else there
    # 300 MB of a disk: 0.04 s of 0.4 s for the checksums
    return pq.ParquetFile(source, metadata=footer, pre_buffer=there is not None, page_checksum_verification=True)


@contextmanager
def reading(path: Path, advice: str = "delete it and run again") -> Iterator[None]:
    """A context for reading a Parquet file: raises InputError, with the file and `advice`, where it is damaged.

    Raises RunFailed where it lies on a store that does not answer.
    """
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and store_of(path.parent) and not path.exists():
            raise RunFailed(f"{path}: cannot be read from the store ({why(error)}); run again to go on") from error
        raise InputError(f"{path}: not a readable Parquet file ({' '.join(str(error).split())}); {advice}") from error


def read_parquet(path: Path, columns: list[str] | None = None, advice: str = "delete it and run again") -> pa.Table:
    """One Parquet file as Arrow. Raises InputError, with the file and `advice`, where it is damaged or half-written."""
    with reading(path, advice):
        return open_parquet(path).read(columns=columns)


def read_metadata(path: Path) -> dict[bytes, bytes]:
    """The key-value metadata of one Parquet file. Raises InputError where it is damaged or half-written."""
    try:
        with open_parquet(path) as file:
            return dict(file.schema_arrow.metadata or {})
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error}); delete it and run again") from error


def parquet_files(folder: Path, only: str | None = None) -> list[Path]:
    """The Parquet files of a table's folder in order: those that its MANIFEST names, and no others.

    So the rows of a copy that somebody made of a file do not count twice. A borrowed part whose link lacks, as in a
    copy without links, is the file of its home. Where there is no MANIFEST, as while a step is at work, they are all
    that are not hidden. `only`: the file of this name, if there is one, and no other is looked for. Raises InputError
    where a file that is named is not there.
    """
    named = named_files(folder)
    if named is None:
        there = {path.name for path in folder.glob("*.parquet")} | {*sizes_there(folder)}
        names = (one for one in there if one.endswith(".parquet") and "/" not in one and not one.startswith("."))
        return [folder / one for one in sorted(names, key=by_number) if only in (None, one)]
    found = [place_of(folder, name, at) for name, at in named.items() if only in (None, name)]
    lacking = [path for path in found if not path.is_file()]
    if lacking and store_of(folder):
        lacking = _not_on_the_store(lacking)
    if lacking:
        raise InputError(missing_part(f"{lacking[0]}"))
    return found


def _not_on_the_store(files: list[Path]) -> list[Path]:
    """Which files of a run on a store are not there either; one request for each folder that they lie in."""
    homes = {path: path.resolve() for path in files}
    there = {above / name for above in {home.parent for home in homes.values()} for name in sizes_there(above)}
    return [path for path, home in homes.items() if home not in there]


def missing_part(where: str) -> str:
    """The message about a file that a MANIFEST names and that is not there."""
    return f"{where}: its MANIFEST names it, and it is not there; put it back, or run the round again to make it anew"
