"""The step that runs the text rules: one file of verdicts for each file of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from blip_bootstrap.config import RayConfig, TextRulesConfig
from blip_bootstrap.progress import Progress
from blip_bootstrap.storage.parquet import open_parquet, parquet_files, read_parquet, reading, write_parquet
from blip_bootstrap.storage.store import fetched, is_there
from blip_bootstrap.storage.tables import TEXT_CHECKS
from blip_pipelines.cluster.items import HERE, Pool, run_items
from blip_pipelines.cluster.resources import num_workers, works_here
from blip_pipelines.cluster.session import connect
from blip_pipelines.cluster.tally import Counts
from blip_pipelines.texts.rules import check_text

TALLY_EVERY_ROWS = 1_000


def check_texts(out: Path, images: Path, *, config: TextRulesConfig, ray: RayConfig) -> dict[str, int]:
    """Run the text rules over the web texts of `images`, also those of rows without a picture.

    Each file makes one of the same name (table `text_checks`), with its rows in their order; files that are there stay.
    The texts themselves stay as they are. Returns the number of rows, and of texts that each rule speaks against.
    """
    files = parquet_files(images)
    todo = [
        Texts(str(one.absolute()), str((out / one.name).absolute())) for one in files if not is_there(out / one.name)
    ]
    pool = _pool(ray, len(todo))
    with Progress("texts", sum(_num_rows(Path(one.images)) for one in todo), unit="texts") as progress:
        if todo:
            run_items("texts", todo, partial(TextChecker, config), pool, _fetched, progress, {})
    counts: Counter[str] = Counter(dict.fromkeys(("rows", *config.in_order), 0))
    for one in files:
        reasons = read_parquet(out / one.name, ["reason"])["reason"]
        counts["rows"] += len(reasons)
        counts.update({told["values"]: told["counts"] for told in reasons.drop_null().value_counts().to_pylist()})
    return dict(counts)


def _num_rows(file: Path) -> int:
    with reading(file), open_parquet(file) as parquet:
        return int(parquet.metadata.num_rows)


def _fetched(one: Texts) -> None:
    fetched(Path(one.checks))  # of a run on a store, what another machine has made


def _pool(ray: RayConfig, num_files: int) -> Pool:
    if works_here(ray, num_files):
        return HERE
    connect(ray)
    return Pool(num_workers(ray, 0, cpus_each=1, at_most=num_files))


@dataclass(frozen=True)
class Texts:
    """One item: the path of a file of images, and of the file of what the rules say about its texts."""

    images: str
    checks: str


class TextChecker:
    """What a worker runs: the rules over the texts of files, one file after another."""

    def __init__(self, config: TextRulesConfig, *, tally: Counts) -> None:
        self._config, self._tally = config, tally

    def __call__(self, file: Texts) -> Iterator[Texts]:
        """Write the verdicts on the texts of `file` unless they are there."""
        if not is_there(Path(file.checks)):
            rows = read_parquet(Path(file.images), ["key", "caption"])
            write_parquet(Path(file.checks), self._checked(rows, file.checks), TEXT_CHECKS, counts={})
        yield file

    def _checked(self, rows: pa.Table, name: str) -> pa.Table:
        found = []
        for at, text in enumerate(rows["caption"].to_pylist(), start=1):
            found.append(check_text(text, self._config))
            if at % TALLY_EVERY_ROWS == 0 or at == len(rows):
                self._tally.put(name, {"texts": at})
        reasons, languages, probabilities = zip(*found, strict=True) if found else ((), (), ())
        columns = {"reason": reasons, "language": languages, "language_probability": probabilities}
        arrays = {column: pa.array(values, TEXT_CHECKS.schema.field(column).type) for column, values in columns.items()}
        return pa.table({"key": rows["key"], **arrays}, schema=TEXT_CHECKS.schema)
