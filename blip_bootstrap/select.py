"""Which captions become training pairs: one SQL rule over the Parquet of a round (BLIP, section 3.3)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import duckdb

from blip_bootstrap import tables
from blip_bootstrap.config import SelectConfig
from blip_bootstrap.errors import AccountingError, InputError
from blip_bootstrap.sql_text import scan, text_list

Counts = dict[str, int | float | str]
Arm = Literal["filter_only", "captioner_only"]

FILES_PER_QUERY = 8
"""Planning a query costs as much as some 5,000 rows; more files in one would only take more memory."""

FOLDED = r"trim(regexp_replace(coalesce(caption, ''), '[\s\p{Z}\x{0b}\x{1c}-\x{1f}\x{85}]+', ' ', 'g'))"
"""SQL for a text with its whitespace folded, as Python's " ".join(text.split()) does."""


def select_pairs(out: Path, captions: Path, config: SelectConfig) -> Counts:
    """Decide for every row of `captions` whether it becomes a training pair, and if not, why.

    Writes one file of `tables.PAIRS` into `out` for each file of `captions`, with the same rows in the same order. A
    dropped row carries the first reason of `tables.REASONS` that applies. `duplicate_text` is a text that the same
    image already has, letter case apart, among the rows that could still be kept.
    Returns rows, kept, kept and dropped rows by source, and dropped rows by reason.
    Raises AccountingError where rows in are not rows kept plus rows per reason. BLIP, section 3.3.
    """
    return _decide(out, captions, lambda files: rule_sql(_texts(files), config), config.model_dump(mode="json"))


def take_web_pairs(out: Path, images: Path) -> Counts:
    """Every web text of a downloaded image, for the start of the loop (round 0); only empty texts are dropped.

    Writes one file of `tables.PAIRS` for each file of `images`; `itm_score` is null. Counts and errors as in
    `select_pairs`.
    """
    return _decide(out, images, _web_texts, {"strategy": "all_web_texts"})


def control_pairs(out: Path, captions: Path, arm: Arm, config: SelectConfig) -> Counts:
    """The pairs of an arm of Table 1: `filter_only` (web texts under the round's rule) or `captioner_only` (all texts).

    `captioner_only` drops empty and repeated texts alone: the captioner without the filter.
    """
    if arm == "filter_only":
        changes: dict[str, object] = {"sources": ("web",)}
    else:
        changes = {"itm_threshold": 0.0, "strategy": "threshold", "min_tokens": 0, "drop_flagged": False}
    return select_pairs(out, captions, config.model_copy(update=changes))


def rule_sql(texts: str, config: SelectConfig) -> str:
    """The selection rule as one SQL query over `texts`, rows of `captions` with columns `part` and `position`."""
    wanted = f"list_contains({text_list(config.sources)}, source)"
    words = "len(text) - len(replace(text, ' ', '')) + 1"
    too_short = f"{words} < {config.min_tokens}" if config.min_tokens > 1 else "false"
    # n words need 2n-1 bytes at least: most texts are spared the counting.
    too_long = f"strlen(text) > {2 * config.max_tokens} AND {words} > {config.max_tokens}"
    flagged = f"{str(config.drop_flagged).lower()} AND source = 'synthetic' AND len(coalesce(flags, [])) > 0"
    only_best = f"{str(config.strategy == 'best_per_image').lower()} AND place > 1"
    return f"""
WITH checked AS (
    SELECT *, {wanted} AS wanted, trim(coalesce(caption, '')) AS text,
        CASE
            WHEN text = '' THEN 'empty_text'
            WHEN {too_short} THEN 'too_short'
            WHEN {too_long} THEN 'too_long'
            WHEN {flagged} THEN 'degenerate_text'
        END AS text_reason
    FROM {texts}
), scored AS (
    SELECT *,
        CASE
            WHEN text_reason IS NOT NULL THEN text_reason
            WHEN row_number() OVER (
                PARTITION BY key, lower(text), text_reason IS NULL, wanted ORDER BY part, position
            ) > 1 THEN 'duplicate_text'
            WHEN itm_score IS NULL OR isnan(itm_score) THEN 'not_scored'
            WHEN itm_score < {config.itm_threshold}::FLOAT THEN 'below_threshold'
            WHEN NOT wanted THEN 'not_selected'
        END AS score_reason
    FROM checked
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY key, score_reason IS NULL ORDER BY itm_score DESC, part, position) AS place
    FROM scored
)
SELECT part, key, source, candidate, caption, itm_score,
    CASE WHEN score_reason IS NOT NULL THEN score_reason WHEN {only_best} THEN 'not_selected' END AS reason,
    reason IS NULL AS kept
FROM ranked ORDER BY part, position
"""


def _texts(files: Sequence[Path]) -> str:
    columns = f"{_part(files)} AS part, file_row_number AS position, key, source, candidate, caption, itm_score, flags"
    return f"(SELECT {columns} FROM {scan(files, _PLACED)})"


def _web_texts(files: Sequence[Path]) -> str:
    """Round 0's rule over files of `images`."""
    return f"""
SELECT {_part(files)} AS part, key, 'web' AS source, 0::SMALLINT AS candidate, {FOLDED} AS caption,
    NULL::FLOAT AS itm_score, CASE WHEN {FOLDED} = '' THEN 'empty_text' END AS reason, reason IS NULL AS kept
FROM {scan(files, _PLACED)} WHERE status = 'success' ORDER BY part, file_row_number
"""


_PLACED = "filename = true, file_row_number = true"


def _part(files: Sequence[Path]) -> str:
    """SQL for the place of a row's file in `files`, from 1."""
    return f"list_position({text_list([str(file) for file in files])}, filename)"


def _decide(out: Path, source: Path, query_of: Callable[[Sequence[Path]], str], rule: dict[str, object]) -> Counts:
    """Decide the files that are not there yet, a few by each query, then count and check all of them."""
    files = tables.parquet_files(source)
    if not files:
        raise InputError(f"{source}: no Parquet files to select from; make this table first")
    missing = [file for file in files if not (out / file.name).exists()]
    groups = [missing[at : at + FILES_PER_QUERY] for at in range(0, len(missing), FILES_PER_QUERY)]
    metadata = {"rule": json.dumps(rule)}
    with duckdb.connect() as connection, ThreadPoolExecutor(os.cpu_count()) as pool:
        connection.execute("SET threads = 1")  # a group of files is one unit of work; the pool is what runs in parallel
        done = [pool.submit(_write, connection.cursor(), out, group, query_of(group), metadata) for group in groups]
        for future in done:
            future.result()
        return _account(connection, out, _rows_expected(connection, files))


def _write(cursor: duckdb.DuckDBPyConnection, out: Path, files: list[Path], query: str, rule: dict[str, str]) -> None:
    """Decide some files by one query, and write a file of pairs for each, also for one without rows."""
    with cursor:
        decided = cursor.sql(query).to_arrow_table()
    sizes = dict.fromkeys(range(1, len(files) + 1), 0)
    sizes |= {count["values"]: count["counts"] for count in decided["part"].value_counts().to_pylist()}
    rows, first = decided.drop_columns(["part"]), 0
    for part, file in enumerate(files, start=1):
        tables.write_parquet(out / file.name, rows.slice(first, sizes[part]), tables.PAIRS, rule)
        first += sizes[part]


def _rows_expected(connection: duckdb.DuckDBPyConnection, files: list[Path]) -> int:
    """Rows that must come out: of `images`, those with a picture; of `captions`, all."""
    columns = [str(row[0]) for row in connection.execute(f"DESCRIBE SELECT * FROM {scan(files)}").fetchall()]
    where = "WHERE status = 'success'" if "status" in columns else ""
    ((rows,),) = connection.execute(f"SELECT count(*) FROM {scan(files)} {where}").fetchall()
    return int(rows)


def _account(connection: duckdb.DuckDBPyConnection, pairs: Path, expected: int) -> Counts:
    """Count the pairs by source and reason. Raises AccountingError where a row is lost, doubled or undecided."""
    query = f"SELECT source, kept, reason, count(*) FROM {scan(tables.parquet_files(pairs))} GROUP BY ALL ORDER BY ALL"
    counts: dict[str, int] = {"rows": 0, "kept": 0}
    for source, kept, reason, number in connection.execute(query).fetchall():
        if kept != (reason is None) or (reason is not None and reason not in tables.REASONS):
            raise AccountingError(f"{pairs}: {number} {source} rows have kept={kept} and reason={reason}")
        names = ("rows", "kept", f"kept_{source}") if kept else ("rows", f"dropped_{source}", f"dropped_{reason}")
        for name in names:
            counts[name] = counts.get(name, 0) + number
    if counts["rows"] != expected:
        raise AccountingError(
            f"{pairs}: {expected} rows in, {counts['rows']} rows decided; delete the folder, run again"
        )
    return dict(counts)
