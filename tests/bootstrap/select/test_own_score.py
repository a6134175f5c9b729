"""Ranking and cutting by a judge's score, and by an SQL expression over the scores of a text."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from blip_bootstrap.config import SelectConfig, load_config
from blip_bootstrap.errors import ConfigError, InputError
from blip_bootstrap.loop.check import check_config
from blip_bootstrap.query.alike import schema_of
from blip_bootstrap.query.score_expression import expression_of
from blip_bootstrap.query.verdicts import cut_of, rule_of
from blip_bootstrap.report.rule_section import rule_html
from blip_bootstrap.schemas import tables
from blip_bootstrap.select.pairs import decides_by_part, select_web_pairs
from blip_bootstrap.storage import parquet
from tests.support.scored_texts import scored, selected


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    rng = random.Random(3)
    rows = scored(300, 3)
    for row in rows:
        row["scores"] = [("siglip2", rng.random()), ("vqa", rng.random())]
    rows[4]["scores"], rows[5]["scores"] = None, [("vqa", 0.5)]
    return rows


@pytest.fixture
def captions(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    for part in range(2):
        some = parquet.rows_to_table(rows[part * 450 : (part + 1) * 450], tables.CAPTIONS)
        parquet.write_parquet(tmp_path / f"captions/part-{part:05d}.parquet", some, tables.CAPTIONS)
    return tmp_path / "captions"


def siglip2(row: dict[str, Any]) -> float | None:
    return dict(row["scores"] or []).get("siglip2")


def kept(pairs: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    return {(row["key"], row["source"], row["candidate"]) for row in pairs if row["kept"]}


def named(rows: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    return {(row["key"], row["source"], row["candidate"]) for row in rows}


@pytest.mark.parametrize("score", ["siglip2", "scores.siglip2"])
def test_fraction_keeps_the_best_by_a_judge(captions: Path, rows: list[dict[str, Any]], score: str) -> None:
    pairs, counts = selected(captions, strategy="fraction", score=score, keep_fraction=0.3)
    by_score = sorted((row for row in rows if siglip2(row) is not None), key=lambda row: -(siglip2(row) or 0))
    assert kept(pairs) == named(by_score[: -(-len(by_score) * 3 // 10)])
    assert [row["reason"] for row in pairs].count("not_scored") == 2
    assert counts["scored_by_web"] == "siglip2"
    assert counts["rule_score_cut_web"] == counts["rule_score_cut_synthetic"]
    for row, other in zip(pairs, rows, strict=True):
        assert row["rule_score"] == (None if siglip2(other) is None else pytest.approx(siglip2(other)))


def test_threshold_cuts_by_an_expression_of_each_source(captions: Path, rows: list[dict[str, Any]]) -> None:
    sql = {"web": "siglip2", "synthetic": "0.5 * itm + 0.5 * scores.vqa"}
    settings = {"strategy": "threshold", "score_sql": sql, "score_threshold": {"web": 0.9, "synthetic": 0.6}}
    pairs, counts = selected(captions, **settings)
    best = [
        row
        for row in rows
        if (row["source"] == "web" and (siglip2(row) or 0) >= 0.9)
        or (
            row["source"] == "synthetic"
            and 0.5 * row["itm_score"] + 0.5 * dict(row["scores"] or []).get("vqa", -9) >= 0.6
        )
    ]
    assert kept(pairs) == named(best)
    assert (counts["rule_score_cut_web"], counts["rule_score_cut_synthetic"]) == (0.9, 0.6)
    folder = captions.parent / "pairs-1"
    rule = rule_of(schema_of(folder / "part-00000.parquet")) or {}
    assert cut_of(rule) == ("rule_score", 0.6)
    record = json.loads((folder / "rule.json").read_text())
    assert "web: siglip2, the score of a text as it is." in rule_html(record)
    assert decides_by_part(SelectConfig(**settings))
    # The arm without synthetic texts has the same rule.
    select_web_pairs(captions.parent / "web", captions, folder)
    web = [
        row for file in parquet.parquet_files(captions.parent / "web") for row in parquet.read_parquet(file).to_pylist()
    ]
    assert kept(web) == {one for one in kept(pairs) if one[1] == "web"}


def test_best_per_image_ranks_by_it_what_itm_leaves(captions: Path, rows: list[dict[str, Any]]) -> None:
    pairs, counts = selected(captions, strategy="best_per_image", score_sql="-siglip2", itm_threshold=0.4)
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        score = siglip2(row)
        if score is not None and row["itm_score"] >= 0.4:
            before = best.get(row["key"])
            best[row["key"]] = row if before is None or score < (siglip2(before) or 0) else before
    assert kept(pairs) == named(list(best.values()))
    assert counts["itm_threshold"] == 0.4
    cut, _ = selected(captions, strategy="best_per_image", score="vqa", score_threshold=0.5)
    assert all(row["rule_score"] >= 0.5 for row in cut if row["kept"])
    assert any(row["itm_score"] < 0.2 for row in cut if row["kept"])  # ITM does not cut then


def test_a_judges_score_may_stand_in_a_list_of_ranks(captions: Path) -> None:
    pairs, counts = selected(captions, strategy="fraction", score=["siglip2", "itc"], keep_fraction=0.2)
    assert counts["ranked_by_web"] == "siglip2, itc"
    assert sum(row["kept"] for row in pairs) == pytest.approx(0.2 * 898, abs=3)


def test_files_of_before_lack_scores_and_are_not_scored(captions: Path) -> None:
    first = captions / "part-00000.parquet"
    table = parquet.read_parquet(first)
    pq.write_table(table.drop_columns(["scores", "scores_lacking"]), first)
    pairs, _ = selected(captions, strategy="fraction", score="siglip2", keep_fraction=0.5)
    assert {row["reason"] for row in pairs[: len(table)]} == {"not_scored"}
    assert sum(row["kept"] for row in pairs[len(table) :]) == 225
    second = captions / "part-00001.parquet"
    pq.write_table(parquet.read_parquet(second).drop_columns(["scores", "scores_lacking"]), second)
    with pytest.raises(InputError, match=r"^select\.score: siglip2: no text of .*captions has siglip2$"):
        selected(captions, strategy="fraction", score="siglip2")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"score": "siglip3"}, r"^select\.score: siglip3, but no web .* by it; of judges there are siglip2, vqa$"),
        ({"score_sql": "siglip3 + itm"}, r"^select\.score_sql: siglip3 \+ itm, but no web text of .*; of judges there"),
        ({"score_sql": "itm +"}, r"^select\.score_sql: 'itm \+': syntax error"),
        ({"score_sql": {"web": "itm", "synthetic": "caption"}}, r"score_sql\.synthetic: 'caption': it is VARCHAR"),
        ({"score_sql": "abz(itm)"}, r"abz\(\) may not be called in it; did you mean abs\?$"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_line(captions: Path, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told) as error:
        selected(captions, strategy="fraction", **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "", "itm, itc", "itm; SELECT 1", "itm) FROM read_text('/etc/passwd') --", "(SELECT 1)", "itm IN (SELECT 1)",
        "EXISTS (SELECT 1)", "read_text('/etc/passwd')", "getenv('HOME')", "current_setting('threads')", "random()",
        "now()", "uuid()", "nextval('x')", "sum(itm)", "sum(itm) OVER ()", "row_number() OVER ()", "COLUMNS(*)", "*",
        "list_transform([itm], lambda x: x)[1]", "itm::MAP(VARCHAR, INT)", "$1", "?", "#1", "a.b.c", "main.abs(itm)",
        "count(*)", "unnest([1])", "TRY(itm)", "scores", "scores['A b']", "itm FILTER (true)", "x'", "error('no')",
    ],
)  # fmt: skip
def test_what_reads_more_than_its_row_is_refused(text: str) -> None:
    with pytest.raises(InputError) as error:
        expression_of(text)
    assert "\n" not in str(error.value)


def test_names_are_those_of_scores_columns_and_judges() -> None:
    found = expression_of("CASE WHEN source = 'web' THEN ITM ELSE coalesce(scores['vqa'], clip, -1) END + a_judge / 2")
    assert found.columns == ("source", "itm_score", "scores", "clip_score")
    assert found.scores == ("vqa", "a_judge")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("score_sql=siglip3 + itm", "select.score_sql: siglip3 is no score of a judge of caption.judges; their"),
        ("score=s2_x", "select.score: s2_x is no score of a judge of caption.judges; their scores are s2"),
        ("score_sql=itm +", "select.score_sql: 'itm +': syntax error at or near"),
        ("score_sql=s2 + itm", None),
    ],
)  # fmt: skip
def test_a_run_does_not_begin_with_a_score_that_nobody_gives(setting: str, told: str | None) -> None:
    judges = "caption.judges=[{name: s2, kind: dual_encoder, options: {checkpoint: a/b}}]"
    found = check_config(load_config(None, [judges, "select.strategy=fraction", f"select.{setting}"]), 1)
    lines = [line for line in found if line.startswith("select")]
    assert [line[: len(told or "")] for line in lines] == ([told] if told else [])


def test_settings_that_do_not_go_together() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"score_sql": "itm"}, "strategy threshold cuts by score_sql at score_threshold"),
        ({"score_sql": "itm", "score": "itc", "strategy": "fraction"}, "both set"),
        ({"score_sql": "itm", "strategy": "learned"}, "score_sql is for the strategies"),
        ({"score_threshold": 0.1, "strategy": "fraction"}, "score_threshold cuts by one score"),
        ({"score_sql": {"web": "itm"}, "strategy": "fraction"}, "score_sql names no value for synthetic"),
        ({"score_sql": "itm", "strategy": "top_k", "informative_weight": 0.5}, "informative_weight weighs ranks"),
    ]
    for settings, told in cases:
        with pytest.raises(ValidationError, match=told):
            SelectConfig(**settings)
    judges = "caption.judges=[{name: siglip2, kind: dual_encoder, options: {checkpoint: a/b}}]"
    assert load_config(None, [judges, "select.strategy=fraction", "select.score=siglip2"]).select.has_own_score
    for setting, told in [
        ("siglip3", r"select\.score: is one of itm, .*siglip2, .* \(got 'siglip3'\)"),
        ("siglip2", "which is not set"),
    ]:
        with pytest.raises(ConfigError, match=told):
            load_config(None, [judges, f"select.score={setting}"])
