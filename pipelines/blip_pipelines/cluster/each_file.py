"""Makes a file of each file of a table, on a pool of workers, for steps whose parts need no other part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from blip_bootstrap.config import RayConfig
from blip_bootstrap.progress import Progress
from blip_bootstrap.schemas.schema import Table
from blip_bootstrap.storage.manifest import KnownParts
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, write_parquet
from blip_bootstrap.stores.store import is_there
from blip_pipelines.cluster.items import HERE, Pool, Work, run_items
from blip_pipelines.cluster.resources import num_workers, works_here
from blip_pipelines.cluster.session import connect
from blip_pipelines.cluster.tally import Counts


@dataclass(frozen=True)
class EachFile:
    """What a step makes of each file: a file of the same name of `table`, and what it counts of its rows.

    `step` and `unit` are the words of the progress. `count` gives the numbers of rows of each kind, by the columns
    `counted` of what was made, `rows` among them.
    """

    step: str
    unit: str
    table: Table
    counted: Sequence[str]
    count: Callable[[pa.Table], Mapping[str, int]]

    def run(self, out: Path, source: Path, make: Work[Path, pa.Table], ray: RayConfig) -> Counter[str]:
        """Have workers write what `make` makes of each file of the folder `source` to `out`; files there stay.

        `make` is called in the worker, once with `tally=`; what it returns makes the table of one file. Returns the
        counts of all files, by the notes that their workers left. No file of `out` is opened here but one of an
        earlier version, which left no counts.
        """
        files = parquet_files(source)
        lacking = [one for one in files if not is_there(out / one.name)]
        todo = [(str(one.absolute()), str((out / one.name).absolute())) for one in lacking]
        known = KnownParts()
        with Progress(self.step, sum(map(known.rows, lacking)), unit=self.unit) as progress:
            if todo:
                work = partial(FileMaker, self, make)
                run_items(self.step, todo, work, _pool(ray, len(todo)), _nothing, progress, {})
        counts, known = Counter[str](), KnownParts()
        for one in files:
            counts.update(self._counts_of(out / one.name, known))
        return counts

    def _counts_of(self, made: Path, known: KnownParts) -> Mapping[str, int]:
        note = known(made)
        return note.counts if note and note.counts else self.count(read_parquet(made, [*self.counted]))


def _nothing(made: str) -> None:
    """Nothing is read here of what a worker has made."""


def _pool(ray: RayConfig, num_files: int) -> Pool:
    if works_here(ray, num_files):
        return HERE
    connect(ray)
    return Pool(num_workers(ray, 0, cpus_each=1, at_most=num_files))


class FileMaker:
    """What a worker runs: makes files one after another, with a note of what it counted beside each."""

    def __init__(self, what: EachFile, make: Work[Path, pa.Table], *, tally: Counts) -> None:
        self._what, self._make = what, make(tally=tally)

    def __call__(self, files: tuple[str, str]) -> Iterator[str]:
        """Make the second file of the first unless it is there: Ray repeats a finished item whose result was lost."""
        source, made = files
        if not is_there(Path(made)):
            for rows in self._make(Path(source)):
                write_parquet(Path(made), rows, self._what.table, counts=self._what.count(rows))
        yield made
