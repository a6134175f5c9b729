"""Which captions become training pairs: one SQL rule over the Parquet of a round (BLIP, section 3.3)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.errors import AccountingError, InputError
from blip_bootstrap.machine import num_cores
from blip_bootstrap.query.alike import schema_of
from blip_bootstrap.query.questions import told_in_one_line
from blip_bootstrap.query.sql_text import scan, text_list
from blip_bootstrap.query.verdicts import cut_of, rule_of
from blip_bootstrap.schemas import closed_lists, schema, tables
from blip_bootstrap.select.aside import as_in, by_key, duplicates, judged_only, not_listed, whole_file, with_aside
from blip_bootstrap.select.cuts import Counts, Cut, check_score, find_cut
from blip_bootstrap.select.informative import count_words
from blip_bootstrap.select.own_score import columns_of
from blip_bootstrap.select.rule import FOLDED, passing_sql, rule_sql, thinning
from blip_bootstrap.select.variety import count_texts
from blip_bootstrap.storage import parquet
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.manifest import KnownParts
from blip_bootstrap.storage.notes import total, values

Query = Callable[[Sequence[Path]], str]

_OF_TEXTS = schema.Table(
    "web_texts",
    "what decides on a web text",
    tuple(one for one in tables.IMAGES.columns if one.name in ("key", "caption", "cut_from_chars", "status")),
)

RULE = "rule.json"
"""The file beside the pairs that tells about a rule with scores of its own, where the strategy has one."""

FILES_PER_QUERY = 8
"""Planning a query takes as long as deciding some 5,000 rows; more files in one query only take more memory."""


def select_pairs(
    out: Path,
    captions: Path,
    groups: Path | None = None,
    text_checks: Path | None = None,
    *,
    config: SelectConfig,
) -> Counts:
    """Decide for every row of `captions` whether it becomes a training pair, and if not, why.

    Writes one file of `tables.PAIRS` into `out` for each file of `captions`, with the same rows in the same order. A
    dropped row carries the first reason of `closed_lists.REASONS` that applies. `rejected` is the filter's verdict on
    every text with a score, also where something else drops it. `duplicate_text` is a text that the same image
    already has, letter case apart, among the rows that could still be kept.
    The files of `groups` and `text_checks` are aligned with those of images; where they name a `reason` for a picture,
    its texts, or its web text, are dropped by it before the rule.
    Returns the numbers of rows, of kept rows, of kept and dropped rows by source and of dropped rows by reason, and the
    cut.
    Raises AccountingError where rows in are not rows kept plus rows per reason, and InputError where a file is damaged.
    BLIP, section 3.3.
    """
    files = _files(captions)
    with told_in_one_line(), duckdb.connect() as connection:
        asides = [*not_listed(captions), *duplicates(groups), *by_key(text_checks, ["web"])]
        todo = _undecided(out, files) if decides_by_part(config) else files
        return _select(connection, out, judged_only(todo, out, tables.CAPTIONS, asides), config, _rows_expected(files))


def select_by(out: Path, captions: Path, pairs: Path, config: SelectConfig) -> Counts:
    """Run another rule on the texts of `captions` that were not set aside when `pairs` were made.

    Writes, returns and raises as `select_pairs` does.
    """
    files = judged_only(_files(captions), out, tables.CAPTIONS, as_in(pairs))
    with told_in_one_line(), duckdb.connect() as connection:
        return _select(connection, out, files, config, _rows_expected(files))


def decides_by_part(config: SelectConfig) -> bool:
    """Whether each file of captions is decided by itself, whatever the others hold."""
    is_alone = config.strategy in ("threshold", "best_per_image", "top_k") and not config.goes_by_rank
    return is_alone and not (config.variety or config.informative_weight) and config.synthetic_share is None


def _select(
    connection: duckdb.DuckDBPyConnection, out: Path, files: Sequence[Path], config: SelectConfig, expected: int
) -> Counts:
    """Run the rule on `files`, all that it is to see; `expected` rows come out, those of decided files included."""
    if files:
        check_score(files, config)
    cut = find_cut(files, config)
    decide = _rule(connection, files, config, cut)
    shares: dict[str, float] = {}
    if config.synthetic_share is not None:
        shares = thinning(_kept_by_source(connection, files, decide({})), config.synthetic_share)
    rule = config.model_dump(mode="json") | cut.counts | ({"judge": cut.judge} if cut.judge else {})
    counts = _decide(connection, out, files, decide(shares), rule, expected) | cut.counts
    if cut.record:
        write_whole(out / RULE, json.dumps({"strategy": config.strategy, **cut.record}, indent=1) + "\n")
    return counts


def _rule(
    connection: duckdb.DuckDBPyConnection, files: Sequence[Path], config: SelectConfig, cut: Cut
) -> Callable[[Mapping[str, float]], Query]:
    """The rule as a function of the shares that `thinning` leaves; the tables that it reads are made."""
    num_before = _num_before(connection, files)
    if config.informative_weight:
        count_words(connection, files)
    if config.variety:
        passing = [passing_sql(_texts(some, config), config, cut, num_before) for some in _grouped(files)]
        count_texts(connection, passing)

    def decide(shares: Mapping[str, float]) -> Query:
        return lambda some: rule_sql(_texts(some, config), config, cut, shares, num_before)

    return decide


def select_web_pairs(out: Path, captions: Path, pairs: Path, groups: Path | None = None) -> Counts:
    """Run the rule that made `pairs` on the web texts of `captions` alone: Table 1's arm with the filter only.

    The cut is the round's own, so that the arm has the round's filter and lacks only its synthetic texts. Ranks and
    repetitions are found among web texts, and `synthetic_share` does not apply. Writes, returns and raises as
    `select_pairs` does; raises InputError too where `pairs` does not say by which rule it was made.
    """
    files = judged_only(_files(captions), out, tables.CAPTIONS, as_in(pairs))
    rule = rule_of(schema_of(_files(pairs)[0])) or {}
    cut = cut_of(rule)
    if cut is None:
        raise InputError(f"{pairs}: no rule in these files' metadata; the pairs of `select` have one")
    own = {name: value for name, value in rule.items() if name in SelectConfig.model_fields}
    config = SelectConfig.model_validate(own | {"sources": ("web",), "synthetic_share": None})
    with told_in_one_line(), duckdb.connect() as connection:
        decide = _rule(connection, files, config, Cut.of(rule, *cut))
        told = rule | config.model_dump(mode="json")
        return _decide(connection, out, files, decide({}), told, _rows_expected(files))


def take_web_pairs(out: Path, images: Path, groups: Path | None = None, text_checks: Path | None = None) -> Counts:
    """Take every web text of a downloaded image as a pair, for the start of the loop (round 0).

    Only texts that are empty, were cut when the list was read, are of rows that are not listed any more, or are set
    aside by `groups` or `text_checks` (as `select_pairs` has it) are dropped. Writes one file of `tables.PAIRS` for
    each file of `images`, with a null `itm_score`. Returns counts and raises as `select_pairs` does.
    """
    with told_in_one_line(), duckdb.connect() as connection:
        asides = [*not_listed(images), *duplicates(groups), *by_key(text_checks)]
        files = _files(images)
        todo = judged_only(_undecided(out, files), out, _OF_TEXTS, asides)
        return _decide(connection, out, todo, _web_texts, {"strategy": "all_web_texts"}, _rows_expected(files))


def _texts(files: Sequence[Path], config: SelectConfig) -> str:
    columns = f"{_part(files)} AS part, file_row_number AS position, * EXCLUDE (filename, file_row_number)"
    wanted = ["distinctness"] if config.informative_weight else []
    wanted += columns_of(config) if config.has_own_score or config.goes_by_rank else []
    there = {name for file in files for name in schema_of(file).names} if wanted else set()
    for name in dict.fromkeys(wanted):
        if name not in there:  # captions of an earlier version lack it
            columns += f", NULL::{TYPES.get(name, 'FLOAT')} AS {name}"
    return f"(SELECT {columns} FROM {scan(files, _PLACED)})"


def _web_texts(files: Sequence[Path]) -> str:
    """Round 0's rule over files of `images`; those of an earlier version have no `cut_from_chars`."""
    is_known = any("cut_from_chars" in schema_of(file).names for file in files)
    cut = "WHEN cut_from_chars IS NOT NULL THEN 'text_too_long'" if is_known else ""
    return f"""
SELECT {_part(files)} AS part, key, 'web' AS source, 0::SMALLINT AS candidate, {FOLDED} AS caption,
    NULL::FLOAT AS itm_score, NULL::BOOLEAN AS rejected, NULL::FLOAT AS rule_score, NULL::FLOAT AS informativeness,
    CASE WHEN {FOLDED} = '' THEN 'empty_text' {cut} END AS reason, reason IS NULL AS kept
FROM {scan(files, _PLACED)} WHERE status = 'success' ORDER BY part, file_row_number
"""


TYPES = {"scores": "MAP(VARCHAR, DOUBLE)", "prompt": "VARCHAR", "raw_caption": "VARCHAR", "captioner": "VARCHAR"}
"""Of columns of `captions` that are no FLOAT, and that captions of earlier versions may lack."""

_PLACED = "filename = true, file_row_number = true"


def _part(files: Sequence[Path]) -> str:
    """SQL for the place of a row's file in `files`, from 1."""
    return f"list_position({text_list([str(file) for file in files])}, filename)"


def _files(folder: Path) -> list[Path]:
    files = [file.resolve() for file in parquet.parquet_files(folder)]  # as DuckDB names them in `filename`
    if not files:
        raise InputError(f"{folder}: no Parquet files to select from; make this table first")
    return files


def _num_before(connection: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> int:
    """The most texts of one image that can stand before a text of it: the web text and the other candidates."""
    if not files:
        return 1
    ((most,),) = connection.execute(f"SELECT max(candidate) FROM {scan(files)}").fetchall()
    return 1 + int(most or 0)


def _grouped(files: Sequence[Path]) -> list[Sequence[Path]]:
    return [files[at : at + FILES_PER_QUERY] for at in range(0, len(files), FILES_PER_QUERY)]


def _kept_by_source(connection: duckdb.DuckDBPyConnection, files: Sequence[Path], query_of: Query) -> dict[str, int]:
    """The number of texts of each source that a rule would keep."""
    kept = {"web": 0, "synthetic": 0}
    for group in _grouped(files):
        counted = f"SELECT source, count(*) FROM ({query_of(group)}) WHERE kept GROUP BY source"
        for source, number in connection.execute(counted).fetchall():
            kept[source] += number
    return kept


def _decide(
    connection: duckdb.DuckDBPyConnection,
    out: Path,
    files: Sequence[Path],
    query_of: Query,
    rule: Mapping[str, object],
    expected: int,
) -> Counts:
    """Decide the files that are not decided yet, a few with each query, then count and check the pairs of all files."""
    groups = _grouped(_undecided(out, files))
    metadata = {"rule": json.dumps(rule)}
    with ThreadPoolExecutor(num_cores()) as pool:
        connection.execute("SET threads = 1; SET parquet_metadata_cache = true")  # the pool is what runs in parallel
        done = [pool.submit(_write, connection.cursor(), out, group, query_of, metadata) for group in groups]
        for future in done:
            future.result()
    return _account(out, expected)


def _undecided(out: Path, files: Sequence[Path]) -> list[Path]:
    return [file for file in files if not _is_decided(out / file.name)]


def _is_decided(path: Path) -> bool:
    """Whether a file of pairs is there; one with other columns is of an earlier version, and is made anew."""
    return path.exists() and schema_of(path).names == tables.PAIRS.schema.names


def _write(
    cursor: duckdb.DuckDBPyConnection, out: Path, files: Sequence[Path], query_of: Query, rule: dict[str, str]
) -> None:
    """Decide some files with one query, and write a file of pairs for each, also where it has no rows."""
    with cursor:
        decided = cursor.sql(query_of(files)).to_arrow_table()  # made here: by ranks a query has 70 kB of numbers
    sizes = dict.fromkeys(range(1, len(files) + 1), 0)
    sizes |= {count["values"]: count["counts"] for count in decided["part"].value_counts().to_pylist()}
    rows, first = decided.drop_columns(["part"]), 0
    for part, file in enumerate(files, start=1):
        pairs = with_aside(rows.slice(first, sizes[part]), file)
        parquet.write_parquet(out / file.name, pairs, tables.PAIRS, rule, counts_of(out / file.name, pairs))
        first += sizes[part]


def _rows_expected(files: Sequence[Path]) -> int:
    """The number of rows that must come out: for `images`, those with a picture; for `captions`, all."""
    known = KnownParts()
    return sum(_rows_of(whole_file(file), known) for file in files)


def _rows_of(file: Path, known: KnownParts) -> int:
    note = known(file)
    if note is not None:
        return note.counts.get("success", 0) if "images" in note.counts and "web" not in note.counts else note.rows
    with parquet.reading(file), parquet.open_parquet(file) as opened:
        if "status" not in opened.schema_arrow.names:
            return int(opened.metadata.num_rows)
        return values(opened.read(["status"])["status"]).get("success", 0)


def _account(pairs: Path, expected: int) -> Counts:
    """Count the pairs by source and reason. Raises AccountingError where a row is lost, doubled or undecided."""
    known = KnownParts()
    counts = {"rows": 0, "kept": 0} | total([_counted(file, known) for file in parquet.parquet_files(pairs)])
    if counts["rows"] != expected:
        raise AccountingError(
            f"{pairs}: {expected} rows in, {counts['rows']} rows decided; delete the folder, run again"
        )
    return {name: counts[name] for name in ("rows", "kept", *sorted(counts.keys() - {"rows", "kept"}))}


def _counted(file: Path, known: KnownParts) -> Mapping[str, int]:
    note = known(file)
    return note.counts if note else counts_of(file, parquet.read_parquet(file, ["source", "kept", "reason"]))


def counts_of(file: Path, pairs: pa.Table) -> dict[str, int]:
    """The counts of one file of pairs. Raises AccountingError where a row is undecided, or has an unknown reason."""
    grouped = (
        pairs.select(["source", "kept", "reason"]).group_by(["source", "kept", "reason"]).aggregate([([], "count_all")])
    )
    counts: dict[str, int] = {"rows": 0, "kept": 0}
    for row in grouped.to_pylist():
        source, kept, reason, number = row["source"], row["kept"], row["reason"], row["count_all"]
        if kept != (reason is None) or (reason is not None and reason not in closed_lists.REASONS):
            raise AccountingError(f"{file}: {number} {source} rows have kept={kept} and reason={reason}")
        names = ("rows", "kept", f"kept_{source}") if kept else ("rows", f"dropped_{source}", f"dropped_{reason}")
        for name in names:
            counts[name] = counts.get(name, 0) + number
    return counts
