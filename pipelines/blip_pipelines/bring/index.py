"""Reads what there is of pictures into tables of rows, a file for each source, which are planned as URL lists are."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from blip_bootstrap.config import PictureSource, RayConfig
from blip_bootstrap.progress import Progress
from blip_bootstrap.schemas.schema import Column, Table
from blip_bootstrap.storage.parquet import open_parquet, rows_to_table, write_parquet
from blip_pipelines.bring.files import found_in_folder, found_in_list
from blip_pipelines.bring.origin import Source
from blip_pipelines.bring.parquet import found_in_parquet
from blip_pipelines.bring.sources import Files, check_names, find_sources, folder_of_list, stamps_of
from blip_pipelines.bring.tars import found_in_tar
from blip_pipelines.bring.texts import Found, rows_of
from blip_pipelines.cluster.items import HERE, Pool, run_items
from blip_pipelines.cluster.resources import num_workers, works_here
from blip_pipelines.cluster.session import connect
from blip_pipelines.cluster.tally import Counts

INDEX = ".bring"
"""In a half-made artifact of images: what was found of pictures, until all parts are made."""

VERSION = 1
"""Of how records become rows: another one makes half-made indexes anew."""

FEW = 32
"""So many sources are read by this process: a tar file of 10,000 pictures takes a second, a Ray several to start."""

PIECE_ROWS = 50_000
"""Rows in each file of the index: a bound on memory."""

FIRST_NAMES = 100
"""Of a list so many pictures are looked for before it is read."""

_TEXTS = ("url", "caption", "uid", "source_key", "extra", "origin", "mistake")

BROUGHT = Table(
    "brought",
    "one row per text of a picture that is there already, as it was found",
    tuple(
        Column(name, pa.string(), "as in the table `images`" if name != "mistake" else "why it has no picture")
        for name in _TEXTS
    ),
)


@dataclass(frozen=True)
class Task:
    """A source that is to be read, and the folder that its rows go to."""

    source: Source
    out: str
    names: tuple[str, ...] = ()
    folder: str = ""


class Indexer:
    """What a worker runs: reads a source, and writes its rows."""

    def __init__(self, entry: PictureSource, *, tally: Counts) -> None:
        self._entry, self._tally = entry, tally

    def __call__(self, task: Task) -> Iterator[Task]:
        """Write the rows of a source."""
        out, made = Path(task.out), Path(f"{task.out}.made")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        rows = self._rows(task)
        for number in count():
            some = list(islice(rows, PIECE_ROWS))
            if not some and number:
                break
            write_parquet(made / f"{number:06d}.parquet", rows_to_table(some, BROUGHT), BROUGHT)
        if not out.exists():
            made.rename(out)
        self._tally.put(task.out, {"files": 1})
        yield task

    def _rows(self, task: Task) -> Iterator[dict[str, Any]]:
        name = "/".join(one for one in (self._entry.name, task.source.name) if one not in ("", "."))
        for found in self._found(task):
            yield from rows_of(found, name, self._entry.caption_column)

    def _found(self, task: Task) -> Iterator[Found]:
        if task.source.kind == "webdataset":
            return found_in_tar(task.source)
        if task.source.kind == "parquet":
            return found_in_parquet(task.source, self._entry.image_column)
        if task.source.kind == "list":
            return found_in_list(task.source, self._entry.image_column, task.folder)
        return found_in_folder(task.source, task.names)


@dataclass
class PictureRows:
    """The rows of an entry of download.pictures, found as they are asked for and kept in `folder`."""

    entry: PictureSource
    folder: Path
    ray: RayConfig
    _read: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The dataset's name in the tables."""
        return self.entry.name

    @property
    def path(self) -> Path:
        """Where its pictures lie."""
        return self.entry.path

    def rows(self, every: bool = True) -> Iterator[dict[str, Any]]:
        """The rows in order, of the sources' own order; `every`: all will be asked for, so that workers read ahead.

        Tells on standard error how many have no picture. Raises InputError where nothing has pictures.
        """
        files, sources = find_sources(self.entry)
        tasks = [self._task(files, source) for source in sources]
        if every and len([one for one in tasks if not Path(one.out).exists()]) > FEW:
            self._read_ahead(tasks)
        mistakes, first = 0, ""
        for task in tasks:
            if not Path(task.out).exists():
                self._index([task], HERE)
            for row in _rows_in(Path(task.out)):
                mistakes, first = mistakes + bool(row["mistake"]), first or row["mistake"] or ""
                yield row
        if mistakes and str(self.path) not in self._read:
            self._read.add(str(self.path))
            sys.stderr.write(f"{self.path}: records without a picture: {mistakes:,} (the first: {first})\n")

    def _read_ahead(self, tasks: Sequence[Task]) -> None:
        todo = [one for one in tasks if not Path(one.out).exists()]
        if works_here(self.ray, len(todo)):
            return
        connect(self.ray)
        self._index(todo, Pool(num_workers(self.ray, 0, cpus_each=1, at_most=len(todo))))

    def _index(self, tasks: Sequence[Task], pool: Pool) -> None:
        with Progress(f"pictures of {self.name}", len(tasks), unit="files") as progress:
            run_items("download", tasks, partial(Indexer, self.entry), pool, lambda _: None, progress, Counter())

    def _task(self, files: Files, source: Source) -> Task:
        names = tuple(files.by_folder[source.name]) if source.kind == "files" else ()
        folder = ""
        if source.kind == "list":
            first = _first_names(source, self.entry)
            folder = folder_of_list(self.entry, source, files, first[0] if first else "")
            check_names(self.entry, source, folder, first)
        told = [VERSION, self.entry.model_dump(mode="json"), vars(source), folder, stamps_of(files, source)]
        digest = hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()[:24]
        return Task(source, str((self.folder / f"{digest}").absolute()), names, folder)


def _rows_in(folder: Path) -> Iterator[dict[str, Any]]:
    for piece in sorted(folder.iterdir()):
        with open_parquet(piece) as file:
            for batch in file.iter_batches(2_000):
                yield from batch.to_pylist()


def _first_names(source: Source, entry: PictureSource) -> list[str]:
    """The first file names of a list."""
    named = (one.origin.file for one in found_in_list(source, entry.image_column, "") if one.origin)
    return list(islice(named, FIRST_NAMES))
