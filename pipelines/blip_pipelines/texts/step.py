"""The step that runs the text rules: one file of verdicts for each file of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from blip_bootstrap.config import RayConfig, TextRulesConfig
from blip_bootstrap.schemas.tables import TEXT_CHECKS
from blip_bootstrap.storage.notes import values
from blip_bootstrap.storage.parquet import read_parquet
from blip_pipelines.cluster.each_file import EachFile
from blip_pipelines.cluster.tally import Counts
from blip_pipelines.texts.rules import check_text

TALLY_EVERY_ROWS = 1_000


def check_texts(out: Path, images: Path, *, config: TextRulesConfig, ray: RayConfig) -> dict[str, int]:
    """Run the text rules over the web texts of `images`, also those of rows without a picture.

    Each file makes one of the same name (table `text_checks`), with its rows in their order; files that are there stay.
    The texts themselves stay as they are. Returns the number of rows, and of texts that each rule speaks against.
    """
    counts: Counter[str] = Counter(dict.fromkeys(("rows", *config.in_order), 0))
    counts.update(CHECKS.run(out, images, partial(TextChecker, config), ray))
    return dict(counts)


def count_checks(checks: pa.Table) -> dict[str, int]:
    """The number of rows, and of texts that each rule speaks against, in rows of `text_checks`."""
    return {"rows": len(checks), **values(checks["reason"])}


CHECKS = EachFile("texts", "texts", TEXT_CHECKS, ["reason"], count_checks)


class TextChecker:
    """What a worker runs: the rules over the texts of files, one file after another."""

    def __init__(self, config: TextRulesConfig, *, tally: Counts) -> None:
        self._config, self._tally = config, tally

    def __call__(self, images: Path) -> Iterator[pa.Table]:
        """The verdicts on the texts of a file of images."""
        rows, found = read_parquet(images, ["key", "caption"]), []
        for at, text in enumerate(rows["caption"].to_pylist(), start=1):
            found.append(check_text(text, self._config))
            if at % TALLY_EVERY_ROWS == 0 or at == len(rows):
                self._tally.put(str(images), {"texts": at})
        reasons, languages, probabilities = zip(*found, strict=True) if found else ((), (), ())
        columns = {"reason": reasons, "language": languages, "language_probability": probabilities}
        arrays = {column: pa.array(values, TEXT_CHECKS.schema.field(column).type) for column, values in columns.items()}
        yield pa.table({"key": rows["key"], **arrays}, schema=TEXT_CHECKS.schema)
