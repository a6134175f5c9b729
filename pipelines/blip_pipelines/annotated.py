"""The human step: pictures with captions written by people, in, the table `annotated` out."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from blip_bootstrap.config import AnnotatedSet
from blip_bootstrap.errors import InputError
from blip_bootstrap.progress import Progress
from blip_bootstrap.tables import ANNOTATED, parquet_files, read_parquet, rows_to_table, write_parquet
from blip_pipelines.pictures import PictureError, open_picture
from blip_pipelines.url_lists import check_columns, parse_object

MAX_PIXELS = 200_000_000
ENCODE_QUALITY = 95
KEPT_FORMATS = (b"\xff\xd8\xff", b"\x89PNG")
"""Beginnings of files that are stored as they are where they are small enough: JPEG and PNG."""

Row = dict[str, Any]


def ingest_annotated(out: Path, source: Path, config: AnnotatedSet) -> dict[str, int | float | str]:
    """Read the annotated set listed in `source` and write `part-NNNNN.parquet` (table `annotated`).

    A picture that is missing or cannot be decoded, and one without captions, is one row with its status and error
    class. Returns rows, the number by status, failed ones by error class, and captions of the successful ones.
    Raises InputError where the list cannot be read, lacks a column, or has no row that can be used.
    """
    rows = _place(read_records(source, config), config)
    root = config.image_root or source.parent
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, Progress("annotated", None, unit="pictures") as progress:
        for number in range(10**9):
            part = list(islice(rows, config.rows_per_shard))
            if not part:
                break
            path = out / f"part-{number:05d}.parquet"
            if not path.exists():
                ingested = list(pool.map(partial(_ingest, root=root, image_size=config.image_size), part))
                write_parquet(path, rows_to_table(ingested, ANNOTATED), ANNOTATED)
            progress.advance(len(part))
    return _counts(out, source)


def read_records(source: Path, config: AnnotatedSet) -> Iterator[Row]:
    """The list's records, with the columns checked. Raises InputError as `ingest_annotated` does."""
    reader = _READERS.get(source.suffix.lower())
    if reader is None:
        raise InputError(f"{source}: an annotated set ends in one of {' '.join(_READERS)}, not {source.suffix!r}")
    try:
        yield from reader(source, [config.image_column, config.captions_column])
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error})") from error


def _read_jsonl(source: Path, wanted: list[str]) -> Iterator[Row]:
    with source.open(encoding="utf-8-sig", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                record = parse_object(line)
                if record is None:
                    raise InputError(f"{source}: line {number} is not a JSON object")
                check_columns(source, record, wanted)
                yield record


def _read_parquet(source: Path, wanted: list[str]) -> Iterator[Row]:
    try:
        with pq.ParquetFile(source) as file:
            check_columns(source, file.schema_arrow.names, wanted)
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise InputError(f"{source}: not a readable Parquet file ({' '.join(str(error).split())})") from error


_READERS: dict[str, Callable[[Path, list[str]], Iterator[Row]]] = {".jsonl": _read_jsonl, ".parquet": _read_parquet}


def _place(records: Iterator[Row], config: AnnotatedSet) -> Iterator[Row]:
    """Records as rows of the table, in order, not yet with their picture."""
    for number, record in enumerate(records):
        shard, position = divmod(number, config.rows_per_shard)
        domain = record.get(config.domain_column)
        yield {
            "key": f"{shard:05d}{position:05d}",
            "name": str(record[config.image_column] or ""),
            "domain": None if domain is None else str(domain),
            "captions": _captions(record[config.captions_column]),
        }


def _captions(value: object) -> list[str]:
    """A list of texts, or one text, whitespace folded, empty ones left out."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
    return [folded for text in texts if (folded := " ".join(str(text or "").split()))]


def _ingest(row: Row, root: Path, image_size: int) -> Row:
    if not row["captions"]:
        return _failed(row, "failed_to_resize", "other", "no captions")
    try:
        body = (root / row["name"]).read_bytes() if row["name"] else b""
    except (OSError, ValueError) as error:
        return _failed(row, "failed_to_download", "other", f"{root / row['name']}: {error}")
    try:
        jpg = encode_small(body, image_size)
    except PictureError as error:
        return _failed(row, "failed_to_resize", error.error_class, f"{row['name']}: {error.message}")
    known = {"sha256": hashlib.sha256(body).hexdigest(), "jpg": jpg}
    return row | {"status": "success", "error_class": None, "error_message": None} | known


def _failed(row: Row, status: str, error_class: str, message: str) -> Row:
    return row | {"status": status, "error_class": error_class, "error_message": message, "jpg": None}


def encode_small(body: bytes, image_size: int) -> bytes:
    """The picture with its longest side at most `image_size` px; its own bytes where they are small enough already.

    Raises PictureError, as open_picture does.
    """
    image, exif = open_picture(body, MAX_PIXELS)
    if max(image.size) <= image_size and body.startswith(KEPT_FORMATS) and exif is None:
        return body
    image.thumbnail((image_size, image_size), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=ENCODE_QUALITY)
    return encoded.getvalue()


def _counts(out: Path, source: Path) -> dict[str, int | float | str]:
    """The counts of all parts. Raises InputError where no row can be used."""
    counts: Counter[str] = Counter()
    for path in parquet_files(out):
        for row in read_parquet(path, ["status", "error_class", "captions"]).to_pylist():
            counts.update(["rows", row["status"], *([row["error_class"]] if row["error_class"] else [])])
            counts["captions"] += len(row["captions"]) if row["status"] == "success" else 0
    if not counts["success"]:
        raise InputError(f"{source}: none of {counts['rows']} rows has a readable picture and a caption")
    return dict(counts)
