"""The steps `human` and `held_out`: read pictures with captions that people wrote into the table `annotated`."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from blip_bootstrap.config import AnnotatedSet
from blip_bootstrap.errors import InputError
from blip_bootstrap.machine import num_cores
from blip_bootstrap.progress import Progress
from blip_bootstrap.reading import records
from blip_bootstrap.reading.header import Header
from blip_bootstrap.reading.records import JSON_ENDINGS, Record
from blip_bootstrap.schemas.cells import NotTextError, folded_text_of, text_of
from blip_bootstrap.schemas.keys import key_of, part_name
from blip_bootstrap.schemas.tables import ANNOTATED
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, rows_to_table, write_parquet
from blip_bootstrap.stores.store import gone
from blip_pipelines.ingest.pictures import HumanStore
from blip_training.data.decode import PictureError

ENDINGS = (*JSON_ENDINGS, ".parquet")

Row = dict[str, Any]


def ingest_annotated(out: Path, source: Path, config: AnnotatedSet) -> dict[str, int | float | str]:
    """Read the annotated set listed in `source` and write `part-NNNNN.parquet` (table `annotated`).

    A picture that is missing, cannot be decoded or has no caption makes a row with its status and error class, and so
    does a line that cannot be read. Returns counts: of all rows, of each status, of each error class, of the captions
    of successful rows, and of captions left out as too long.
    Raises InputError where the list cannot be read, lacks a column, or has no row that can be used.
    """
    left_out: Counter[str] = Counter()
    rows = _place(_sampled(source, config), config, left_out)
    root = config.image_root or source.parent
    with HumanStore(config) as store, ThreadPoolExecutor(num_cores()) as pool, _progress() as progress:
        for number in range(10**9):
            part = list(islice(rows, config.rows_per_shard))
            if not part:
                break
            path = out / part_name(number)
            if path.exists():
                progress.begin(progress.done + len(part))
                continue
            ingested = []
            for row in pool.map(partial(_ingest, root=root, store=store), part):
                ingested.append(row)
                progress.advance()
            write_parquet(path, rows_to_table(ingested, ANNOTATED), ANNOTATED)
    return _counts(out, source) | +left_out


def _sampled(source: Path, config: AnnotatedSet) -> Iterator[Record]:
    """The records of the list in its order: all, or `config.sample` of them, for which it is read twice."""
    if config.sample is None:
        return read_records(source, config)
    count = sum(1 for _ in read_records(source, config))
    if config.sample > count:
        raise InputError(f"{source}: {count} rows, sample asks for {config.sample} of them")
    drawn = {*random.Random(config.sample_seed).sample(range(count), config.sample)}
    return (record for number, record in enumerate(read_records(source, config)) if number in drawn)


def _progress() -> Progress:
    return Progress("annotated", None, unit="pictures")


def read_records(source: Path, config: AnnotatedSet) -> Iterator[Record]:
    """The records of the list. Raises InputError where it cannot be read, or lacks one of the configured columns."""

    def check(found: Header) -> list[str]:
        wanted = {"image_column": config.image_column, "captions_column": config.captions_column}
        found.require(wanted)
        found.require_text("image_column", config.image_column, "give the pictures' file names")
        if not found.kinds.get(config.captions_column, "list").split("<")[0].endswith(("list", "lists")):
            found.require_text("captions_column", config.captions_column, "give a text or a list of texts a row")
        optional = [config.domain_column] if config.domain_column in found.names else []
        return [*wanted.values(), *optional]

    return records.read_records(source, check, "an annotated set", ENDINGS)


def _place(records: Iterator[Record], config: AnnotatedSet, left_out: Counter[str]) -> Iterator[Row]:
    """Records as rows of the table `annotated`, in order, with captions but without pictures yet.

    A row has `mistake`, the reason, where its record cannot be read. Captions that are too long are counted in
    `left_out`.
    """
    for number, record in enumerate(records):
        shard, position = divmod(number, config.rows_per_shard)
        row: Row = {"key": key_of(shard, position), "name": "", "domain": None, "captions": []}
        row["mistake"] = record.mistake
        try:
            row["name"] = text_of(record.cells.get(config.image_column))
            row["domain"] = text_of(record.cells.get(config.domain_column)) or None
            texts = _captions(record.cells.get(config.captions_column))
            row["captions"] = [text for text in texts if len(text) <= config.max_text_chars]
            left_out["captions_too_long"] += len(texts) - len(row["captions"])
        except NotTextError as error:
            row["mistake"] = f"{record.where}: {error} where a text was expected"
        yield row


def _captions(cell: object) -> list[str]:
    """The captions in a cell, which holds one text or a list of texts: whitespace folded, blank ones left out.

    A mapping counts as the text under `raw` (Karpathy's splits) or `caption` (COCO's annotations).
    """
    cells = cell if isinstance(cell, (list, tuple)) else [cell]
    texts = [one.get("raw", one.get("caption", one)) if isinstance(one, dict) else one for one in cells]
    folded = [folded_text_of(text) for text in texts if not isinstance(text, bool)]
    return [text for text in folded if text]


def _ingest(row: Row, root: Path, store: HumanStore) -> Row:
    if mistake := row.pop("mistake"):
        return _failed(row, "failed_to_resize", "other", mistake)
    if not row["captions"]:
        return _failed(row, "failed_to_resize", "other", "no captions")
    try:
        body = (root / row["name"]).read_bytes() if row["name"] else b""
    except (OSError, ValueError) as error:
        return _failed(row, "failed_to_download", "other", f"{root / row['name']}: {error}")
    try:
        _, jpg = store(body)
    except PictureError as error:
        return _failed(row, "failed_to_resize", error.error_class, f"{row['name']}: {error.message}")
    known = {"sha256": hashlib.sha256(body).hexdigest(), "jpg": jpg}
    return row | {"status": "success", "error_class": None, "error_message": None} | known


def _failed(row: Row, status: str, error_class: str, message: str) -> Row:
    return row | {"status": status, "error_class": error_class, "error_message": message, "jpg": None}


def _counts(out: Path, source: Path) -> dict[str, int | float | str]:
    """The counts over all parts. Raises InputError where no row has a readable picture and a caption."""
    counts: Counter[str] = Counter()
    why = ""
    for path in parquet_files(out):
        for row in read_parquet(path, ["status", "error_class", "error_message", "captions"]).to_pylist():
            why = why or row["error_message"] or ""
            counts.update(["rows", row["status"], *([row["error_class"]] if row["error_class"] else [])])
            counts["captions"] += len(row["captions"]) if row["status"] == "success" else 0
    if not counts["success"]:
        for path in parquet_files(out):
            gone(path)  # the pictures may be there the next time, and a part that is there is kept
        first = f" (the first: {why})" if why else ""
        raise InputError(f"{source}: none of {counts['rows']} rows has a readable picture and a caption{first}")
    return dict(counts)
