"""Lists written in every format, and the rows of the shards that are cut of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from blip_bootstrap.config import UrlList
from blip_bootstrap.storage.parquet import read_parquet
from blip_pipelines.lists.shards import write_shards

ROWS = [
    ("http://a/1.jpg", 'a "dog", red'),
    ("http://a/2.jpg", "Grüße\u2028 from 東京"),
    ("http://a/3.jpg", ""),
]


URLS = ["http://a/1", "http://a/2"]


def write_list(path: Path, rows: list[tuple[str, str]], columns: tuple[str, str] = ("url", "caption")) -> Path:
    """The rows in the format of the path's ending."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        if path.suffix == ".tsv":
            stream.writelines("\t".join(row) + "\n" for row in [columns, *rows])
        elif path.suffix == ".csv":
            csv.writer(stream).writerows([columns, *rows])
        elif path.suffix == ".jsonl":
            stream.writelines(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))), path)
    return path


def write_parquet_list(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def shards(folder: Path, *lists: UrlList, rows_per_shard: int = 100, limit: int | None = None) -> list[dict[str, Any]]:
    folder.mkdir()
    paths = write_shards(lists, folder, rows_per_shard, limit)
    return [row for path in paths for row in read_parquet(path).to_pylist()]


def texts(folder: Path, urls: UrlList) -> list[tuple[str, str]]:
    return [(row["caption"], row["error_message"] or "") for row in shards(folder, urls)]
