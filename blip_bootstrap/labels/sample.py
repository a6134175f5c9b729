"""Spot checks: drawing a sample of a round's texts, to be answered by people or by a truth file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from blip_bootstrap.errors import InputError, writing
from blip_bootstrap.labels.truth import Truth, file_name
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.sql_text import literal, text_list
from blip_bootstrap.query.views import connect
from blip_bootstrap.schemas.shown_tables import LABELS
from blip_bootstrap.schemas.text_columns import SCORES
from blip_bootstrap.storage import parquet, run_folder
from blip_bootstrap.storage.labels import read_labels, write_labels
from blip_bootstrap.storage.parquet import rows_to_table
from blip_bootstrap.storage.run_folder import labels_path, resolve_round

SOURCES = ("web", "synthetic")

_STRATA = """
SELECT source, kept, count(*) AS stratum_rows,
    min({{'rank': md5_number_lower(concat_ws(' ', {seed}, key, source, candidate)), 'key': key,
        'candidate': candidate}}, {size}) AS drawn
FROM pairs WHERE round = {round} AND coalesce(reason, '') NOT IN ('empty_text', 'text_too_long')
     AND list_contains({sources}, source)
GROUP BY source, kept
"""
"""The texts of each stratum that the seed puts first. Only these are kept while DuckDB reads the pairs; a sort of all
texts would fill the memory."""

_TEXTS = """
SELECT {columns} FROM (SELECT * FROM pairs WHERE round = {round} AND key IN ({keys})) p
LEFT JOIN (SELECT * FROM captions WHERE round = {round} AND key IN ({keys})) c USING (round, key, source, candidate)
"""

_OF_CAPTIONS = ("captioner", "num_tokens", "itc_score", "logprob", "clip_score", *(one.name for one in SCORES))
"""Columns of `captions` that the labels have, too, so that a rule can be learned from a labels file alone."""

_COLUMNS = (
    "round", "key", "source", "candidate", "p.caption", "p.itm_score", "kept", *(f"c.{one}" for one in _OF_CAPTIONS),
)  # fmt: skip


def draw_sample(
    root: Path, number: int | None = None, size: int = 200, seed: int = 0, sources: Sequence[str] = SOURCES
) -> Path:
    """Draw a sample of `size` texts of a round, as many kept as dropped ones of each source; the path of its file.

    `sources` limits it to web or synthetic texts. The same seed draws the same texts. Raises InputError where the
    round is not there, or has answers already.
    """
    with connect(root) as connection:
        number = resolve_round(root, number)
        rows = _drawn(connection, number, int(size), int(seed), sources)
    if not rows:
        raise InputError(f"{root}: round {number} has no {' or '.join(sources)} texts to sample")
    path = labels_path(root, number)
    if path.exists() and any(row["answer"] for row in read_labels(path)):
        raise InputError(f"{path}: has answers already; move it away to draw another sample")
    with writing(path):
        parquet.write_parquet(path, rows_to_table(rows, LABELS), LABELS, {"seed": str(seed)})
    return path


def _drawn(
    connection: duckdb.DuckDBPyConnection, number: int, size: int, seed: int, sources: Sequence[str]
) -> list[dict[str, Any]]:
    """`size` texts of a round as rows of `LABELS` without an answer, taken from each stratum in turn."""
    sql = _STRATA.format(seed=seed, round=number, size=size, sources=text_list(sources))
    strata = sorted(query(connection, sql).to_pylist(), key=lambda one: (one["source"], one["kept"]), reverse=True)
    placed = [(place, stratum, text) for stratum in strata for place, text in enumerate(stratum["drawn"])]
    chosen = sorted(placed, key=lambda one: one[0])[:size]
    if not chosen:
        return []
    keys = ", ".join(sorted({literal(text["key"]) for _, _, text in chosen}))
    found = query(connection, _TEXTS.format(round=number, keys=keys, columns=", ".join(_COLUMNS))).to_pylist()
    texts = {(row["key"], row["source"], row["candidate"]): row for row in found}
    return [
        texts[text["key"], stratum["source"], text["candidate"]]
        | {"stratum_rows": stratum["stratum_rows"], "answer": None}
        for _, stratum, text in chosen
    ]


def answer_by_truth(root: Path, number: int, truth: Truth) -> int:
    """Answer a round's sample by a truth file, where `true` and `partial` are yes; returns the number of answers."""
    path = labels_path(root, number)
    rows = read_labels(path)
    keys = ", ".join(sorted({literal(row["key"]) for row in rows}))
    with connect(root) as connection:
        found = query(connection, f"SELECT key, url FROM images WHERE key IN ({keys or 'NULL'})").to_pydict()
    urls = dict(zip(found["key"], found["url"], strict=True))
    for row in rows:
        verdict = truth.verdict(file_name(urls.get(row["key"], "")), row["source"], row["caption"] or "")
        row["answer"] = None if verdict is None else "no" if verdict == "false" else "yes"
    write_labels(path, rows)
    return sum(row["answer"] is not None for row in rows)


def find_round(root: Path, number: int | None) -> int:
    """`number`, or the last round that has a sample. Raises InputError where none has."""
    run_folder.check_run(root)
    if number is not None:
        return number
    sampled = [n for n in run_folder.round_numbers(root) if labels_path(root, n).is_file()]
    if not sampled:
        raise InputError(f"{root}: no sample to label; draw one first (`blip-bootstrap audit sample`)")
    return sampled[-1]
