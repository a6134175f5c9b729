"""The read-only DuckDB views over a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from blip_bootstrap.errors import InputError
from blip_bootstrap.paths import spill_folder
from blip_bootstrap.query import json_tables
from blip_bootstrap.query.alike import Alike, alike, schema_of
from blip_bootstrap.query.domains import create_domains
from blip_bootstrap.query.images import EVERY_IMAGE, IMAGES, create_images
from blip_bootstrap.query.macros import MACROS
from blip_bootstrap.query.questions import told_in_one_line
from blip_bootstrap.query.rule_score import score_sql
from blip_bootstrap.query.sql_text import allowed, literal, scan
from blip_bootstrap.query.verdicts import cuts_of, pairs_sql, rule_of
from blip_bootstrap.schemas import schema, shown_tables, tables
from blip_bootstrap.schemas.keys import part_name
from blip_bootstrap.storage import parquet, run_folder
from blip_bootstrap.storage.labels import read_labels
from blip_bootstrap.storage.remote import Remote, opened, remote_of
from blip_bootstrap.storage.remote_files import attach
from blip_bootstrap.storage.run_folder import labels_path, languages_path

HUMAN = schema.Table("human", "one row per picture of the human-annotated set", tables.ANNOTATED.columns)

HELD_OUT = schema.Table("held_out", "one row per picture of the held-out set", tables.ANNOTATED.columns)

PICTURE_GROUPS = tables.PICTURE_GROUPS

CAPTIONS = schema.Table("captions", tables.CAPTIONS.row, (shown_tables.ROUND, *tables.CAPTIONS.columns))

PAIRS = schema.Table("pairs", tables.PAIRS.row, (shown_tables.ROUND, *tables.PAIRS.columns))

RULE_SCORE = schema.Column(
    "rule_score",
    pa.float32(),
    "what the round's rule gives the text where it has scores of its own, as `pairs` has it of the round's texts: the "
    "probability that it fits, or the rank that it would have among them; else null",
)

FILTER_CHECK = schema.Table(
    "filter_check", tables.FILTER_CHECK.row, (shown_tables.ROUND, *tables.FILTER_CHECK.columns, RULE_SCORE)
)

COLUMNS = schema.Table(
    "columns",
    "one row per column of every view",
    (
        schema.Column("view", pa.string(), "the view that it belongs to"),
        schema.Column("column", pa.string(), "its name"),
        schema.Column("type", pa.string(), "its Arrow type"),
        schema.Column("meaning", pa.string(), "what a value means, with its unit"),
    ),
)

VIEWS = (
    IMAGES, shown_tables.DOMAINS, PICTURE_GROUPS, HUMAN, HELD_OUT, CAPTIONS, FILTER_CHECK, PAIRS, shown_tables.LABELS,
    shown_tables.LANGUAGES, shown_tables.CUTS, shown_tables.ROUNDS, shown_tables.METRICS, shown_tables.RUNS,
    shown_tables.RESULTS, COLUMNS,
)  # fmt: skip
"""Every view with its columns, as the view `columns` lists them too."""

MOST_CACHED = 1_000
"""Files up to which a connection keeps the footers that it has read."""

SOME_FILES = 64
"""Files of a table in `some_captions` and the like, evenly spaced, for audits that need a sample only."""


def connect(
    root: Path | str, rounds: Sequence[int] | None = None, with_figures: bool = True, part: int | None = None
) -> duckdb.DuckDBPyConnection:
    """A read-only DuckDB connection with the views of `VIEWS` over the run under `root`, as of `blip-bootstrap sql`.

    `root` is a folder, or an s3:// or gs:// URI. `rounds` limits `captions`, `pairs`, `languages`, `rounds` and
    `metrics` to these rounds; None: all. `images`, `picture_groups`, `human` and `held_out` are those of the last of
    them. `with_figures` False leaves `rounds` and `metrics` empty, for who writes them and must not read what it
    replaces. `part`: images and texts are those of the part with this number alone, and no other file is opened. What
    the run has not made yet is an empty view with the declared columns. The connection can read the tables' files and
    no others, writes no file, loads no extension, and cannot be reconfigured; `questions.query` also refuses every
    statement that does not just read. Raises InputError where `root` is no run or a file in it is damaged.
    """
    root = opened(root)
    run_folder.check_run(root)
    root = root.resolve()
    remote = remote_of(root)
    numbers = [number for number in run_folder.round_numbers(root) if rounds is None or number in rounds]
    connection = duckdb.connect()
    connection.execute("SET autoinstall_known_extensions = false; SET autoload_known_extensions = false;" + MACROS)
    spill = spill_folder() or ""  # empty: what does not fit in memory is an error
    connection.execute(f"SET temp_directory = {literal(str(spill))}")  # DuckDB's own default is .tmp where one stands
    connection.execute("SET GLOBAL python_enable_replacements = false")  # GLOBAL: for its cursors, too
    if remote:
        attach(connection, [remote])
    files: list[str] = []
    with told_in_one_line():
        rules = _rules(root, numbers, remote, part)
        of_run = ("images", EVERY_IMAGE), ("groups", PICTURE_GROUPS), ("human", HUMAN), ("held_out", HELD_OUT)
        for name, table in of_run:
            of_last = run_folder.used_folder(root, max(numbers, default=0), name)
            files += _create(connection, table, [(of_last, None)], remote, part=part)
            if table is EVERY_IMAGE:
                create_images(connection, of_last)
                create_domains(connection)
        for table in (CAPTIONS, FILTER_CHECK, PAIRS):
            places = [(run_folder.round_folder(root, number) / table.name, number) for number in numbers]
            files += _create(connection, table, places, remote, rules, part)
        _create_records(connection, root, numbers if with_figures else [])
        _create_rows(connection, shown_tables.CUTS, _cuts(rules))
        _create_rows(connection, COLUMNS, _documented())
    _create_table(connection, shown_tables.LANGUAGES, _languages(root, numbers))
    _create_table(connection, shown_tables.LABELS, _labels(root, numbers))
    _create_table(connection, shown_tables.RESULTS, _results(root))
    # Each question reads every footer anew otherwise: half of its time, over 500 files. One of images takes 330 kB.
    connection.execute(f"SET GLOBAL parquet_metadata_cache = {str(len(files) <= MOST_CACHED).lower()}")
    _lock(connection, files)
    return connection


def _files(folder: Path, remote: Remote | None, part: int | None) -> list[str]:
    """The files of a folder, those of one part alone where it is given."""
    only = None if part is None else part_name(part)
    if remote:
        return [file for file in remote.parquet_files(folder) if only in (None, file.rpartition("/")[2])]
    return list(map(str, parquet.parquet_files(folder, only)))


def _evenly(files: Sequence[str], most: int) -> list[str]:
    """At most `most` of the files, evenly spaced, and the same ones for tables whose files are aligned."""
    return [files[at * len(files) // most] for at in range(most)] if len(files) > most else list(files)


def _files_sql(
    table: schema.Table, files: Sequence[str], remote: Remote | None, number: int | None, rule: Mapping[str, Any]
) -> str:
    """A SELECT over a folder's files; an empty text where there are none. A column that an older run lacks is null.

    Only `rejected` of `pairs` always has its values: for an older run it is computed from the scores. `rule` is the
    round's, by which `filter_check` has its `rule_score`.
    """
    return " UNION ALL ".join(_alike_sql(table, one, number, rule) for one in alike(files, remote))


def _alike_sql(table: schema.Table, files: Alike, number: int | None, rule: Mapping[str, Any]) -> str:
    rows, there = files.scan, set(files.schema.names)
    if table is PAIRS:
        rows, there = pairs_sql(files), there | {"rejected"}
    own = f"{number}::SMALLINT AS round"
    stored = [c for c in table.columns if c is not RULE_SCORE]
    columns = [own if c is shown_tables.ROUND else c.name if c.name in there else _null(c) for c in stored]
    select = f"SELECT {', '.join(columns)} FROM {rows}"
    return (
        f"SELECT *, {score_sql(rule.get('judge', {}))} AS rule_score FROM ({select})"
        if table is FILTER_CHECK
        else select
    )


def _null(column: schema.Column) -> str:
    """A column of nulls of its declared type, without which sums and lists over it would not bind."""
    kind = duckdb.from_arrow(pa.table({"one": pa.nulls(0, column.type)})).types[0]
    return f"NULL::{kind} AS {column.name}"


def _languages(root: Path, numbers: Sequence[int]) -> pa.Table:
    """The rows that `audit languages` wrote for these rounds: a sample, which fits in memory."""
    paths = [languages_path(root, number) for number in numbers]
    found = [parquet.read_parquet(path) for path in paths if path.is_file()]
    return pa.concat_tables([shown_tables.LANGUAGES.empty, *found])


def _labels(root: Path, numbers: Sequence[int]) -> pa.Table:
    """The samples of these rounds that people answer: some hundred rows each."""
    paths = [labels_path(root, number) for number in numbers]
    rows = [(path, read_labels(path)) for path in paths if path.is_file()]
    found = [shown_tables.LABELS.empty]
    for path, of_round in rows:
        try:
            found.append(parquet.rows_to_table(of_round, shown_tables.LABELS))
        except pa.ArrowException as error:
            raise InputError(f"{path}: not a labels file ({error}); draw a sample anew (`audit sample`)") from error
    return pa.concat_tables(found)


def _results(root: Path) -> pa.Table:
    """The figures of the experiments under a root: some hundred for each arm and seed; empty where it has none."""
    path = root / shown_tables.RESULTS_FILE
    return parquet.read_parquet(path) if path.is_file() else shown_tables.RESULTS.empty


def _rules(root: Path, numbers: Sequence[int], remote: Remote | None, part: int | None) -> dict[int, dict[str, Any]]:
    """The rules of these rounds, as far as there are any, from the metadata of a file of their pairs."""
    rules = {}
    for number in numbers:
        files = _files(run_folder.round_folder(root, number) / "pairs", remote, part)
        if rule := rule_of(schema_of(files[0], remote)) if files else None:
            rules[number] = rule
    return rules


def _cuts(rules: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The scores by which the rules of rounds cut."""
    return [{"round": number, **cut} for number, rule in rules.items() for cut in cuts_of(rule)]


def _create(
    connection: duckdb.DuckDBPyConnection,
    table: schema.Table,
    folders: Sequence[tuple[Path, int | None]],
    remote: Remote | None,
    rules: Mapping[int, Mapping[str, Any]] | None = None,
    part: int | None = None,
) -> list[str]:
    """Create the view of a table and its `some_` view, over folders that each belong to one round or to none.

    Where there are no files, both are empty tables of the declared columns. Returns the files.
    """
    found = [(_files(folder, remote, part), number) for folder, number in folders]
    for name, most in ((table.name, None), (f"some_{table.name}", SOME_FILES)):
        if most and all(len(files) <= most for files, _ in found):
            connection.execute(f"CREATE VIEW {name} AS FROM {table.name}")
            continue
        parts = [
            _files_sql(table, _evenly(files, most or len(files)), remote, number, (rules or {}).get(number or 0, {}))
            for files, number in found
        ]
        if select := " UNION ALL ".join(part for part in parts if part):
            connection.execute(f"CREATE VIEW {name} AS {select}")
        else:
            _create_table(connection, table, table.empty)
    every = [file for files, _ in found for file in files]
    for (files, _), (folder, _) in zip(found, folders, strict=True):
        if not (folder / run_folder.MANIFEST).exists():  # which names files: no other ones count
            _check_keys(connection, table, files)
    return every


def _check_keys(connection: duckdb.DuckDBPyConnection, table: schema.Table, files: Sequence[str]) -> None:
    """Raise InputError where a file of another kind lies among a table's files, which the footers' statistics tell."""
    rows = f"FROM {scan(files, 'filename = true')} WHERE key IS NULL" if files else ""
    if rows and (found := connection.execute(f"SELECT filename {rows} LIMIT 1").fetchone()):
        raise InputError(f"{found[0]}: no file of the table {table.name}, it has rows without a key; move it away")


def _create_table(connection: duckdb.DuckDBPyConnection, table: schema.Table, data: pa.Table) -> None:
    connection.register("arrow_rows", data)
    connection.execute(f"CREATE TABLE {table.name} AS SELECT * FROM arrow_rows")
    connection.unregister("arrow_rows")


def _create_rows(connection: duckdb.DuckDBPyConnection, table: schema.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """A small table, in memory. Its rows are handed over column by column: Arrow would import pandas for them."""
    _create_table(connection, table, table.empty)
    if rows:
        columns = [[row.get(name) for row in rows] for name in table.schema.names]
        connection.execute(f"INSERT INTO {table.name} SELECT {', '.join(['unnest(?)'] * len(columns))}", columns)


def _create_records(connection: duckdb.DuckDBPyConnection, root: Path, numbers: Sequence[int]) -> None:
    """The small tables from JSON; `rounds` and `metrics` of these rounds alone."""
    figures = json_tables.read_all_figures(root, numbers)
    _create_rows(connection, shown_tables.ROUNDS, json_tables.rounds_rows(root, figures))
    _create_rows(connection, shown_tables.METRICS, json_tables.metrics_rows(figures))
    _create_rows(connection, shown_tables.RUNS, json_tables.runs_rows(root))


def _documented() -> list[dict[str, Any]]:
    """The view `columns`. COMMENT ON would do, but binds a view's every file anew for each column: seconds for 500."""
    return [
        {"view": table.name, "column": column.name, "type": str(column.type), "meaning": column.meaning}
        for table in VIEWS
        for column in table.columns
    ]


def _lock(connection: duckdb.DuckDBPyConnection, files: Sequence[str]) -> None:
    """Let the connection read these files only, and fix its settings.

    Naming files and not their folder keeps COPY out, too: it writes a new file beside the one that it replaces.
    """
    connection.execute(f"SET allowed_paths = {allowed(files)}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
