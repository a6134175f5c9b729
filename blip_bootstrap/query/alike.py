"""Which of a table's files have the same columns, told without opening each of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from blip_bootstrap.errors import InputError
from blip_bootstrap.query.sql_text import scan
from blip_bootstrap.storage import parquet
from blip_bootstrap.storage.remote import Remote

LOOKED_AT = 9
"""Files of an artifact whose columns are looked at, evenly spaced, the first and the last among them."""

FEW = 16
"""Files that are opened at once all the same: it costs some 5 MB, and then any of them may lack a column."""


@dataclass(frozen=True)
class Alike:
    """Files that one artifact has made, and so one version of this program, as far as is known; `schema` of all."""

    files: Sequence[Path | str]
    schema: pa.Schema
    differ: bool
    """Whether some may have other columns than others: a download that another version has gone on with."""

    @property
    def scan(self) -> str:
        """SQL to stand after FROM. Each file is opened when its rows are asked for, the first one before, too."""
        return scan(self.files, by_name=self.differ)


def alike(files: Sequence[Path | str], remote: Remote | None = None) -> list[Alike]:
    """The files by the artifacts that they were made in. Raises InputError, naming it, where one is damaged."""
    homes: dict[str, list[Path | str]] = {}
    for file in files:
        homes.setdefault(_home_of(str(file)), []).append(file)
    return [_looked_at(one, remote) for one in homes.values()]


def _home_of(file: str) -> str:
    """The folder in which a file lies; that of its home, where it is a link to a borrowed part."""
    folder = file.rpartition("/")[0]
    try:
        to = os.readlink(file)  # noqa: PTH115 - as texts: of 100,000 parts, paths take four times as long
    except OSError:  # no link
        return folder
    return os.path.normpath(os.path.join(folder, os.path.dirname(to)))  # noqa: PTH118, PTH120


def _looked_at(files: Sequence[Path | str], remote: Remote | None) -> Alike:
    last = len(files) - 1
    places = {round(last * at / (LOOKED_AT - 1)) for at in range(LOOKED_AT)}
    schemas = [schema_of(files[at], remote) for at in sorted(places)]
    differ = len(files) <= FEW or any(one.names != schemas[0].names for one in schemas)
    known = {field.name: field for schema in schemas for field in schema}
    return Alike(files, pa.schema(list(known.values()), metadata=schemas[0].metadata), differ)


def schema_of(file: Path | str, remote: Remote | None = None) -> pa.Schema:
    """The Arrow schema of one Parquet file. Raises InputError, naming the file, where it is damaged."""
    try:
        if remote and "://" in str(file):
            return remote.schema(str(file))
        with parquet.open_parquet(Path(file)) as opened:
            return opened.schema_arrow
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: not a readable Parquet file ({error}); delete it and run again") from error
