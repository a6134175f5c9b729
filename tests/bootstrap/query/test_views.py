"""The views and `blip-bootstrap sql`: complete, documented, read-only, and never a traceback."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from blip_bootstrap.audit.diff import diff
from blip_bootstrap.cli.sql_prompt import run_sql
from blip_bootstrap.config import SelectConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.query.alike import FEW, LOOKED_AT
from blip_bootstrap.query.formats import FORMS, column_parts, print_by, render, rich_table
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import SOME_FILES, VIEWS, connect
from blip_bootstrap.report.why import why
from blip_bootstrap.select.logistic import wilson
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.storage import parquet, schema, tables
from blip_bootstrap.storage.keys import key_of, number_of, part_name
from blip_bootstrap.storage.parts import borrow


def answer(root: Path, question: str) -> list[dict[str, object]]:
    with connect(root) as connection:
        rows: list[dict[str, object]] = query(connection, question).to_pylist()
    return rows


def test_rounds_come_from_folder_names(finished_run: Path) -> None:
    found = answer(finished_run, "SELECT round, count(*) AS n, count(*) FILTER (kept) AS kept FROM pairs GROUP BY ALL")
    assert {row["round"]: row["n"] for row in found} == {0: 78, 1: 156}
    assert answer(finished_run, "SELECT DISTINCT round FROM captions") == [{"round": 1}]


def write_images(folder: Path, parts: range, without: tuple[str, ...] = (), name: str = "images") -> None:
    """Parts of one row each, as a version wrote them that had no columns `without`."""
    few = schema.Table(name, "", tuple(one for one in tables.IMAGES.columns if one.name not in without))
    for part in parts:
        row: dict[str, object] = {"key": key_of(part, 0), "url": f"http://a/{part}", "status": "success"}
        parquet.write_parquet(folder / part_name(part), parquet.rows_to_table([row], few), few)


def test_connecting_opens_few_files_however_many_there_are(tmp_path: Path) -> None:
    images = tmp_path / "images"
    write_images(images, range(LOOKED_AT))
    for part in range(LOOKED_AT, SOME_FILES + 1):
        shutil.copy(images / part_name(0), images / part_name(part))
    files = [{"name": part_name(part)} for part in range(SOME_FILES + 1)]
    (images / "MANIFEST.json").write_text(json.dumps({"files": files, "counts": {}}))
    looked_at = {part_name(round(at * SOME_FILES / (LOOKED_AT - 1))) for at in range(LOOKED_AT)}
    sample = {part_name(at * (SOME_FILES + 1) // SOME_FILES) for at in (0, *range(7, 64, 8), 63)}
    near = {part_name(one) for name in looked_at | sample for one in (number_of(name) - 1, number_of(name) + 1)}
    damaged = [path for path in images.glob("*.parquet") if path.name not in looked_at | sample | near]
    assert len(damaged) > FEW
    for path in damaged:
        path.write_bytes(b"no Parquet file")
    assert answer(tmp_path, "SELECT 1 AS one") == [{"one": 1}]
    with pytest.raises(InputError):  # a negative control: these are the files that the views read
        answer(tmp_path, "SELECT count(url) FROM images")


@pytest.mark.parametrize("old", [range(3), range(1, 2), range(2, 5)])
def test_files_that_lack_columns_have_nulls_there(tmp_path: Path, old: range) -> None:
    """Of one folder, as where another version has gone on; and of two, as where a list has grown."""
    images, before = tmp_path / "images", tmp_path / "artifacts/download_images/a"
    write_images(images, range(5))
    write_images(images, old, without=("same_as", "extra"))
    write_images(before, range(5, 12), without=("same_as", "exif"))
    for part in range(5, 12):
        borrow(images, before / part_name(part))
    assert answer(tmp_path, "SELECT count(*) AS n, count(DISTINCT url) AS urls, count(same_as) AS s FROM images") == [
        {"n": 12, "urls": 12, "s": 0}
    ]


def test_parts_are_found_from_100_000_on(tmp_path: Path) -> None:
    write_images(tmp_path / "images", range(99_999, 100_002))
    (row,) = answer(tmp_path, "SELECT list(key::BIGINT ORDER BY key::BIGINT) AS keys FROM images")
    assert row["keys"] == [99_999 * 10**5, 100_000 * 10**5, 100_001 * 10**5]
    assert why(tmp_path, key_of(100_000, 0)).image["url"] == "http://a/100000"


def test_rounds_can_be_limited(finished_run: Path) -> None:
    with connect(finished_run, rounds=[0]) as connection:
        assert query(connection, "SELECT DISTINCT round FROM pairs")["round"].to_pylist() == [0]
        assert query(connection, "SELECT round FROM rounds")["round"].to_pylist() == [0]
        assert query(connection, "SELECT * FROM captions").num_rows == 0


def test_every_view_has_its_declared_columns_documented(finished_run: Path, tmp_path: Path) -> None:
    for root in (finished_run, tmp_path):
        with connect(root) as connection:
            for table in VIEWS:
                assert query(connection, f"FROM {table.name} LIMIT 1").schema.names == table.schema.names
        told = answer(root, 'SELECT view, "column", meaning FROM columns')
        assert len(told) == sum(len(table.columns) for table in VIEWS)
        assert all(row["meaning"] for row in told)


def test_nothing_made_yet_gives_empty_answers_of_the_declared_types(tmp_path: Path) -> None:
    with connect(tmp_path) as connection:
        found = query(connection, "SELECT round, itm_score, flags FROM captions")
        assert found.schema.types == [pa.int16(), pa.float32(), pa.list_(pa.string())]
        assert query(connection, "SELECT count(*) AS n FROM images")["n"].to_pylist() == [0]


def test_a_column_that_an_older_run_lacks_is_null(tmp_path: Path) -> None:
    (tmp_path / "round-03/pairs").mkdir(parents=True)
    pq.write_table(pa.table({"key": ["a"], "kept": [True]}), tmp_path / "round-03/pairs/part-00000.parquet")
    assert answer(tmp_path, "SELECT round, key, reason FROM pairs") == [{"round": 3, "key": "a", "reason": None}]


def test_runs_tell_settings_and_rounds_tell_figures(finished_run: Path) -> None:
    found = answer(finished_run, "SELECT settings->>'itm_threshold' AS t FROM runs WHERE name = 'round-01/pairs'")
    assert found == [{"t": "0.5"}]
    assert answer(finished_run, "SELECT cider FROM rounds ORDER BY round") == [{"cider": 1.0}, {"cider": 2.0}]
    assert answer(finished_run, "SELECT value FROM metrics WHERE round = 1 AND name = 'seconds.pairs'")[0]["value"] > 0  # type: ignore[operator]


@pytest.mark.parametrize(
    "question",
    [
        "COPY (SELECT 1) TO '{root}/new.parquet'",
        "COPY (PIVOT pairs ON source USING count(*)) TO '{root}/new.parquet'",
        "EXPLAIN ANALYZE COPY pairs TO '{root}/new.parquet'",
        "SELECT 1; EXPORT DATABASE '{root}/dump'",
        "ATTACH '{root}/new.db'",
        "WITH x AS (COPY pairs TO '{root}/new.parquet') SELECT 1",
        "WITH x AS MATERIALIZED (COPY pairs TO '{root}/new.parquet') (PIVOT pairs ON source USING count(*))",
        "EXPLAIN ANALYZE WITH x AS (/* */ copy pairs TO '{root}/new.parquet') SELECT 1",
        "WITH x AS (DELETE FROM rounds RETURNING *) FROM x",
        "WITH x AS (WITH y AS (SELECT 1) INSERT INTO columns SELECT 'a', 'b', 'c', 'd' RETURNING *) FROM x",
        "FROM query('WITH x AS (COPY pairs TO ''{root}/new.parquet'') SELECT 1')",
        "CREATE TABLE mine AS SELECT 1",
        "SELECT 1; SELECT 2",
        "DROP VIEW pairs",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_csv('{root}/../secret.csv')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_text('{root}/config.yaml')",
        "SELECT getenv('HOME')",
        "PRAGMA database_list",
        "SELECT * FROM 'https://example.com/a.parquet'",
        "SELECT * FROM pears",
        "SELEC 1",
        "",
    ],
)
def test_anything_but_reading_the_run_is_refused_in_one_line(tmp_path: Path, question: str) -> None:
    root = tmp_path / "run"
    root.mkdir()
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(InputError) as caught:
        answer(root, question.format(root=root))
    assert "\n" not in str(caught.value)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    "question",
    [
        "FROM pairs LIMIT 1",
        "-- how many?\nSELECT count(*) FROM pairs",
        "PIVOT pairs ON source USING count(*) GROUP BY round",
        "WITH ones AS (SELECT 1 AS one) SELECT * FROM ones",
        "DESCRIBE images",
        "EXPLAIN ANALYZE SELECT 1",
        "SELECT wilson_low(3, 10), wilson_high(3, 10)",
        "SELECT 'copy' AS \"delete\", $$ insert $$ -- update\nFROM pairs /* merge */;",
    ],
)
def test_questions_are_answered(finished_run: Path, question: str) -> None:
    assert answer(finished_run, question)


def test_a_typo_gets_a_guess(finished_run: Path) -> None:
    with pytest.raises(InputError, match='Did you mean "pairs"'):
        answer(finished_run, "SELECT * FROM pair")


def test_wilson_interval_is_the_textbook_one(tmp_path: Path) -> None:
    z, hits, number = 1.96, 3, 10
    p, denominator = hits / number, 1 + z**2 / number
    centre = (p + z**2 / (2 * number)) / denominator
    half = z * (p * (1 - p) / number + z**2 / (4 * number**2)) ** 0.5 / denominator
    found = answer(tmp_path, f"SELECT wilson_low({hits}, {number}) AS low, wilson_high({hits}, {number}) AS high")[0]
    assert found["low"] == pytest.approx(centre - half)
    assert found["high"] == pytest.approx(centre + half)
    assert answer(tmp_path, "SELECT wilson_low(0, 0) AS low") == [{"low": None}]


def test_the_forms_hold_the_same_rows(finished_run: Path, tmp_path: Path) -> None:
    question = "SELECT key, caption, itm_score, flags, round = 1 AS yes FROM captions ORDER BY key, source LIMIT 5"
    with connect(finished_run) as connection:
        data = query(connection, question)
    for form in FORMS:
        run_sql(finished_run, question, form, tmp_path / form)
    as_json = json.loads((tmp_path / "json").read_text())
    assert as_json == data.to_pylist()
    as_csv = list(csv.DictReader(io.StringIO((tmp_path / "csv").read_text())))
    assert [float(row["itm_score"]) for row in as_csv] == [row["itm_score"] for row in as_json]
    assert pq.read_table(tmp_path / "parquet").equals(data)
    assert (tmp_path / "markdown").read_text().splitlines()[1] == "|---|---|---|---|---|"
    assert "5 rows" in (tmp_path / "table").read_text()


def test_pictures_are_told_by_their_size_and_pipes_kept_out_of_markdown() -> None:
    data = pa.table({"jpg": [b"12345"], "text": ["a|b"]})
    assert "<5 bytes>" in render(data, "table").decode()
    assert "a\\|b" in render(data, "markdown").decode()
    assert json.loads(render(data, "json"))[0]["jpg"] == "MTIzNDU="
    with pytest.raises(ValueError, match="none of"):
        render(data, "xml")


def test_a_notebook_s_connection_makes_no_file(finished_run: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    before = {path: path.read_bytes() for path in root.rglob("*.parquet")}
    with connect(root) as connection:
        for target in (root / "new.parquet", root / "round-01/pairs/part-00000.parquet", tmp_path / "new.parquet"):
            with pytest.raises(duckdb.Error, match="disabled by configuration"):
                connection.execute(f"COPY (SELECT 1) TO '{target}'")
        assert connection.execute("SELECT count(*) FROM pairs").fetchone() == (234,)
    assert {path: path.read_bytes() for path in root.rglob("*.parquet")} == before


def test_columns_of_one_name_are_all_told(finished_run: Path) -> None:
    question = "SELECT * FROM pairs p JOIN captions c USING (round, source, candidate) WHERE p.key = c.key LIMIT 2"
    with connect(finished_run) as connection:
        data = query(connection, question)
    assert {"key", "key_1", "caption", "caption_1"} <= set(data.schema.names)
    for form in FORMS:
        assert b"caption_1" in render(data, form)


def test_json_is_json_and_whole_numbers_stay_whole(tmp_path: Path) -> None:
    with connect(tmp_path) as connection:
        asked = "SELECT 1 / 0 AS inf, ['NaN'::DOUBLE] AS nan, sum(2::INT) AS n, map {'a': 1} AS m, 1.5 AS d"
        data = query(connection, asked)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    told = json.loads(render(data, "json"), parse_constant=refuse)
    assert told == [{"inf": None, "nan": [None], "n": 2, "m": {"a": 1}, "d": 1.5}]
    assert type(told[0]["n"]) is int
    assert render(data, "csv").decode().splitlines()[1].split(",")[2] == "2"


@pytest.mark.parametrize("form", FORMS)
def test_what_a_form_cannot_hold_is_an_input_error(tmp_path: Path, form: str) -> None:
    asked = "SELECT 'infinity'::DATE AS d, interval '1 day' AS i"
    with connect(tmp_path) as connection, pytest.raises(InputError, match=form):
        render(query(connection, asked), form)


def test_a_text_of_the_web_cannot_write_over_the_terminal() -> None:
    told = render(pa.table({"text": ["\x1b[2Jgone\r\x9b1A [bold]x[/bold]"]}), "table").decode()
    assert not set("\x1b\r\x9b") & set(told)
    assert "\\x1b[2Jgone" in told
    assert "[bold]x[/bold]" in told


def test_a_long_table_is_cut_and_says_so() -> None:
    told = render(pa.table({"n": list(range(1000))}), "table").decode()
    assert "1,000 rows, the first 200" in told
    assert "│ 199 │" in told
    assert "│ 200 │" not in told
    assert len(render(pa.table({"n": list(range(1000))}), "csv").splitlines()) == 1001


def test_a_table_of_numbers_stays_one_in_a_narrow_terminal() -> None:
    data = pa.table({name: [0.125] * 20 for name in ("a_long_name", "another_name", "noise_ratio", "low", "high")})
    for width, rows in ((80, 20), (45, 20), (36, 20)):
        told = Console(width=width, file=io.StringIO())
        told.print(rich_table(data, width))
        lines = told.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert max(map(len, lines)) <= width
        assert sum("0.125" in line for line in lines) == rows


def test_a_missing_run_and_a_damaged_file_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run"):
        connect(tmp_path / "nothing")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/part-00000.parquet").write_bytes(b"PAR1 half")
    with pytest.raises(InputError, match="part-00000"):
        connect(tmp_path)


def test_any_damaged_file_is_one_line_that_names_it(finished_run: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    with (root / "round-01/pairs/part-00001.parquet").open("r+b") as file:
        file.truncate(700)
    for ask in (lambda: connect(root), lambda: diff(root, 0, 1)):
        with pytest.raises(InputError, match=r"pairs/part-00001\.parquet") as caught:
            ask()
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"pairs/part-00001\.parquet"):
        select_pairs(tmp_path / "out", root / "round-01/pairs", config=SelectConfig())
    (root / "round-00/metrics.json").write_text("[1]")
    with pytest.raises(InputError, match="no object"):
        connect(root, [0])


def test_staged_files_are_not_seen(tmp_path: Path) -> None:
    folder = tmp_path / "round-01/pairs"
    parquet.write_parquet(folder / ".part-00000.parquet", parquet.rows_to_table([], tables.PAIRS), tables.PAIRS)
    assert answer(tmp_path, "SELECT count(*) AS n FROM pairs") == [{"n": 0}]


def test_a_sample_reads_the_same_files_of_aligned_tables(tmp_path: Path) -> None:
    for part in range(SOME_FILES + 6):
        row = {"key": f"{part:03d}", "source": "web", "candidate": 0, "caption": "a dog", "itm_score": 0.5}
        for table in (tables.CAPTIONS, tables.PAIRS):
            whole = dict.fromkeys(table.schema.names) | row
            path = tmp_path / f"round-01/{table.name}/part-{part:05d}.parquet"
            parquet.write_parquet(path, parquet.rows_to_table([whole], table), table)
    with connect(tmp_path) as connection:
        told = {
            name: [row[0] for row in connection.sql(f"SELECT key FROM {name} ORDER BY key").fetchall()]
            for name in ("captions", "some_captions", "some_pairs", "some_images")
        }
    assert len(told["captions"]) == SOME_FILES + 6
    assert len(told["some_captions"]) == SOME_FILES
    assert told["some_captions"] == told["some_pairs"]
    assert told["some_captions"][0] == "000"
    assert told["some_captions"][-1] >= "067"
    assert told["some_images"] == []


def test_wilson_intervals_end_where_shares_do(tmp_path: Path) -> None:
    with connect(tmp_path) as connection:
        asked = (
            "SELECT wilson_low(0, 71), wilson_high(0, 71), wilson_low(71, 71), wilson_high(71, 71), wilson_low(0, 0)"
        )
        (found,) = connection.sql(asked).fetchall()
    low, high = wilson(0.0, 71)
    assert found == (0.0, pytest.approx(high), pytest.approx(1 - high), 1.0, None)
    assert low == pytest.approx(0, abs=1e-12)


def test_a_file_of_another_kind_among_a_tables_is_one_line_that_names_it(tmp_path: Path) -> None:
    pairs = tmp_path / "round-01" / "pairs"
    row = {"key": "0", "source": "web", "candidate": 0, "caption": "a dog", "kept": True}
    parquet.write_parquet(pairs / "part-00000.parquet", parquet.rows_to_table([row], tables.PAIRS), tables.PAIRS)
    with connect(tmp_path) as connection:
        assert query(connection, "SELECT count(*) AS n FROM pairs").to_pylist() == [{"n": 1}]
    pq.write_table(pa.table({"other": [1, 2]}), pairs / "part-00001.parquet")
    with pytest.raises(InputError, match=r"part-00001\.parquet: no file of the table pairs"):
        connect(tmp_path)


def test_a_table_of_many_figures_is_cut_into_tables_that_fit_each_with_the_rows_names() -> None:
    figures = ["cider", "tr1", "tr5", "ir5", "kept_truth_web"]
    data = pa.Table.from_pylist(
        [{"arm": arm, "seeds": "3", **dict.fromkeys(figures, "0.123 ± 0.456")} for arm in ("human_only", "none")]
    )
    for width in (24, 80, 200):
        parts = list(column_parts(data, width))
        assert [name for part in parts for name in part.column_names[1:]] == data.column_names[1:]
        assert {part.column_names[0] for part in parts} == {"arm"}
        told = Console(width=width, file=io.StringIO())
        for part in parts if width > 24 else ():
            told.print(rich_table(part, width))
            assert rich_table(part, width).row_count == 2  # no row became a block of lines
        lines = told.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert all(len(line) <= width for line in lines)
        assert len(parts) == {24: 6, 80: 2, 200: 1}[width]


def test_a_table_that_is_too_wide_is_printed_by_the_values_of_a_column(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = ("filter_precision_web", "kept_truth_web")
    row = {"arm": "human_only", "minus": "captioner_only", "difference": "+0.123", "95 % interval": "+0.023 to +0.223"}
    data = pa.Table.from_pylist([row | {"metric": metric, "beyond zero": "yes"} for metric in metrics])
    for width, titles in (("80", list(metrics)), ("200", [])):
        monkeypatch.setenv("COLUMNS", width)
        print_by(data, "metric")
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if line in metrics] == titles
        assert sum("human_only" in line and "+0.023 to +0.223" in line for line in lines) == 2
