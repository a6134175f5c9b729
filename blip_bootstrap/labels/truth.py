"""Truth files: which texts are true of their picture. Used for measuring only; no step that decides reads one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import duckdb
import pyarrow as pa

from blip_bootstrap.errors import InputError
from blip_bootstrap.query.sql_text import scan
from blip_bootstrap.reading.header import Header
from blip_bootstrap.reading.records import JSON_ENDINGS, Record, read_records
from blip_bootstrap.reading.text_files import plain_suffix
from blip_bootstrap.schemas import tables
from blip_bootstrap.schemas.cells import NotTextError, text_of
from blip_bootstrap.select.aside import by_key, duplicates, not_listed, reasons_of
from blip_bootstrap.storage import parquet
from blip_bootstrap.world.judge import Verdict, judge

TRUTH_ENDINGS = (".tsv", *JSON_ENDINGS)

TRUE_KINDS = frozenset({"true", "full", "clean"})
"""Kinds of web text that are true of their picture. `partial` stays `partial`, and every other kind is false."""


@dataclass(frozen=True)
class Truth:
    """For each picture, by file name: the kind of its web text, and the scene that it shows, where that is known."""

    kinds: Mapping[str, str]
    scenes: Mapping[str, Mapping[str, Any]]

    def verdict(self, name: str, source: str, caption: str) -> Verdict | None:
        """Whether `caption` is true of the picture `name`; None where that is not known.

        Where the scene is known any caption can be judged, elsewhere only the picture's own web text.
        """
        if name in self.scenes:
            return judge(self.scenes[name], caption)
        if source != "web" or name not in self.kinds:
            return None
        kind = self.kinds[name]
        return "true" if kind in TRUE_KINDS else "partial" if kind == "partial" else "false"


def load_truth(path: Path) -> Truth:
    """Read a truth file: JSON lines of `name`, `kind` and optionally `scene`, or TSV with `image` and `kind`.

    Raises InputError, naming the line, where it is neither.
    """
    kinds: dict[str, str] = {}
    scenes: dict[str, Mapping[str, Any]] = {}
    for record in read_records(path, _columns, "a truth file", TRUTH_ENDINGS, ".jsonl"):
        name, kind, scene = _row(path, record)
        if kind:
            kinds[name] = kind
        if scene:
            scenes[name] = scene
    return Truth(kinds, scenes)


def _columns(found: Header) -> list[str]:
    if plain_suffix(found.path) == ".tsv":
        found.require({"image": "image", "kind": "kind"})
        return ["image", "kind"]
    return []


def _row(path: Path, record: Record) -> tuple[str, str, Mapping[str, Any] | None]:
    """Name, kind and scene. Raises InputError where there is no name, or one is of another type."""
    where, cells = f"{path}, {record.where}", record.cells
    try:
        name, kind = text_of(cells.get("name", cells.get("image"))), text_of(cells.get("kind"))
    except NotTextError as error:
        raise InputError(f"{where}: {error} where a text was expected as name or kind") from error
    scene = cells.get("scene")
    if record.mistake or not name or not isinstance(scene, dict | None):
        raise InputError(f"{where}: a JSON object with `name` and `kind`, or `scene` (a mapping), is needed")
    return name, kind, scene


def file_name(url: str) -> str:
    """The last part of a URL's path: the name of a picture in a truth file."""
    return unquote(urlsplit(url).path).rsplit("/", 1)[-1]


def judged_pairs(truth: Truth, images: Path, pairs: Path) -> pa.Table:
    """The rows of `pairs` or `captions` with the `name` of the picture's file and a `verdict`, null where not known."""
    files = parquet.parquet_files(pairs)
    if not files:
        raise InputError(f"{pairs}: no Parquet files to judge; make this table first")
    with duckdb.connect() as connection:
        joined = connection.sql(
            f"SELECT p.*, i.url FROM {scan(files)} p "
            f"LEFT JOIN (SELECT key, url FROM {scan(parquet.parquet_files(images))}) i USING (key)"
        ).to_arrow_table()
    names = [file_name(url or "") for url in joined["url"].to_pylist()]
    texts = zip(names, joined["source"].to_pylist(), joined["caption"].to_pylist(), strict=True)
    verdicts = [truth.verdict(name, source, caption or "") for name, source, caption in texts]
    table = joined.drop_columns(["url"]).append_column("name", pa.array(names, pa.string()))
    return table.append_column("verdict", pa.array(verdicts, pa.string()))


def oracle_pairs(
    out: Path,
    images: Path,
    captions: Path,
    truth: Path,
    groups: Path | None = None,
    text_checks: Path | None = None,
) -> dict[str, int]:
    """The pairs of a filter without mistakes, for the control arm `oracle`: texts that the truth file calls true.

    Writes one file of `tables.PAIRS` for each file of `captions`; a row that is not true, or not known to be, gets the
    reason `not_selected`, one that is set aside its own (`select.aside`). Returns the numbers of rows and of kept ones.
    """
    known, counts, urls = load_truth(truth), {"rows": 0, "kept": 0}, _urls(images)
    asides = [*not_listed(captions), *duplicates(groups), *by_key(text_checks, ["web"])]
    for file in parquet.parquet_files(captions):
        texts = parquet.read_parquet(file, ["key", "source", "candidate", "caption", "itm_score"])
        rows = texts.to_pylist()
        for row, reason in zip(rows, reasons_of(asides, texts, file.name).to_pylist(), strict=True):
            name = file_name(urls.get(row["key"], ""))
            row["kept"] = not reason and known.verdict(name, row["source"], row["caption"] or "") == "true"
            row["reason"] = reason if reason or row["kept"] else "not_selected"
        parquet.write_parquet(out / file.name, parquet.rows_to_table(rows, tables.PAIRS), tables.PAIRS)
        counts["rows"] += len(rows)
        counts["kept"] += sum(row["kept"] for row in rows)
    return counts


def _urls(images: Path) -> dict[str, str]:
    """The URL of every key."""
    parts = [parquet.read_parquet(file, ["key", "url"]) for file in parquet.parquet_files(images)]
    return {key: url for part in parts for key, url in zip(*part.to_pydict().values(), strict=True)}
