"""What the scores can tell: AUC, precision and recall with intervals, against plain Python; and the alarm about it."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from blip_bootstrap.audit.alarms import BLIND, LEAST_ANSWERS, alarms, blindness
from blip_bootstrap.audit.audits import audit
from blip_bootstrap.config import SelectConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.labels.sample import draw_sample
from blip_bootstrap.query.macros import MACROS
from blip_bootstrap.query.views import connect
from blip_bootstrap.report.figures import write_figures
from blip_bootstrap.schemas import tables
from blip_bootstrap.select.logistic import wilson
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.storage import parquet
from blip_bootstrap.storage.labels import read_labels, write_labels
from blip_bootstrap.storage.run_folder import labels_path

Texts = Sequence[tuple[float | None, bool, float]]
"""Score, whether it fits, weight."""


def area(texts: Texts) -> float | None:
    """The AUC pair by pair."""
    good = [(score, weight) for score, fits, weight in texts if fits and score is not None]
    bad = [(score, weight) for score, fits, weight in texts if not fits and score is not None]
    if not good or not bad:
        return None
    won = sum(w * v * ((a > b) + (a == b) / 2) for a, w in good for b, v in bad)
    return won / (sum(w for _, w in good) * sum(v for _, v in bad))


def kish(weights: Sequence[float]) -> float:
    return sum(weights) ** 2 / sum(weight**2 for weight in weights)


def half(auc: float, good: float, bad: float) -> float:
    """Hanley and McNeil (1982), at the area that one more text of each makes less sure."""
    least = min(good, bad)
    a = (auc * least + 1) / (least + 2)
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    return 1.96 * math.sqrt((a * (1 - a) + (good - 1) * (q1 - a * a) + (bad - 1) * (q2 - a * a)) / (good * bad))


def write_check(root: Path, texts: Texts, source: str = "synthetic", cut: float | None = 0.5) -> None:
    """A round whose check has these texts with these ITM scores, and pairs whose rule cuts there."""
    empty = dict.fromkeys(tables.FILTER_CHECK.schema.names)
    same = empty | {"source": source, "candidate": 0, "caption": "a"}
    rows = [same | {"key": f"{at:010d}", "itm_score": score, "fits": fits} for at, (score, fits, _) in enumerate(texts)]
    data = parquet.rows_to_table(rows, tables.FILTER_CHECK)
    parquet.write_parquet(root / "round-01/filter_check/part-00000.parquet", data, tables.FILTER_CHECK)
    rule = {"rule": json.dumps({"itm_threshold": cut})} if cut is not None else {}
    pairs = parquet.rows_to_table([], tables.PAIRS)
    parquet.write_parquet(root / "round-01/pairs/part-00000.parquet", pairs, tables.PAIRS, rule)


def quality(root: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = audit(root, 1, ["filter_quality"])[0].table.to_pylist()
    return found


def drawn(number: int, decimals: int = 9) -> list[tuple[float | None, bool, float]]:
    rng = random.Random(number)
    kinds = [rng.random() < 0.6 for _ in range(number)]
    return [(round(rng.gauss(0.6 if fits else 0.4, 0.2), decimals), fits, 1.0) for fits in kinds]


@pytest.mark.parametrize("texts", [drawn(200), drawn(200, decimals=1), drawn(11, decimals=1)])
def test_the_area_and_its_interval(tmp_path: Path, texts: Texts) -> None:
    """Also where scores tie; a text without a score or of unknown truth does not count."""
    write_check(tmp_path, [*texts, (None, True, 1)])
    (row,) = quality(tmp_path)
    expected = area(texts)
    assert expected is not None
    good, bad = sum(fits for _, fits, _ in texts), sum(not fits for _, fits, _ in texts)
    assert row["auc"] == pytest.approx(expected)
    assert row["auc_low"] == pytest.approx(max(0, expected - half(expected, good, bad)))
    assert row["auc_high"] == pytest.approx(min(1, expected + half(expected, good, bad)))
    assert (row["texts"], row["right_share"], row["cuts"]) == (len(texts), good / len(texts), True)


def test_a_judges_score_stands_under_its_name(tmp_path: Path) -> None:
    texts = drawn(100)
    empty = dict.fromkeys(tables.FILTER_CHECK.schema.names) | {"source": "web", "candidate": 0, "caption": "a"}
    rows = [
        empty | {"key": f"{at:010d}", "fits": fits, "scores": [("siglip2", score), ("vqa", 0.5)]}
        for at, (score, fits, _) in enumerate(texts)
    ]
    data = parquet.rows_to_table(rows, tables.FILTER_CHECK)
    parquet.write_parquet(tmp_path / "round-01/filter_check/part-00000.parquet", data, tables.FILTER_CHECK)
    pairs = parquet.rows_to_table([], tables.PAIRS)
    parquet.write_parquet(tmp_path / "round-01/pairs/part-00000.parquet", pairs, tables.PAIRS)
    found = {row["score"]: row for row in quality(tmp_path)}
    assert found.keys() == {"siglip2", "vqa"}
    assert found["siglip2"]["auc"] == pytest.approx(area(texts), abs=1e-6)
    assert found["vqa"]["auc"] == pytest.approx(0.5)


def test_precision_and_recall_at_the_rules_cut(tmp_path: Path) -> None:
    texts = drawn(200)
    write_check(tmp_path, texts)
    (row,) = quality(tmp_path)
    kept = [fits for score, fits, _ in texts if score is not None and score >= 0.5]
    hits, right = sum(kept), sum(fits for _, fits, _ in texts)
    for name, share, number in (("precision", hits / len(kept), len(kept)), ("recall", hits / right, right)):
        ends = wilson(share, number)
        assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx((share, *ends), abs=1e-4)


def test_a_score_by_which_nothing_is_cut_has_neither(tmp_path: Path) -> None:
    write_check(tmp_path, drawn(50), cut=None)
    (row,) = quality(tmp_path)
    assert row["auc"]
    assert not row["cuts"]
    assert {row[f"{name}{end}"] for name in ("precision", "recall") for end in ("", "_low", "_high")} == {None}


@pytest.mark.parametrize("fits", [True, False])
def test_texts_of_one_kind_have_no_area(tmp_path: Path, fits: bool) -> None:
    write_check(tmp_path, [(0.2, fits, 1), (0.7, fits, 1)])
    (row,) = quality(tmp_path)
    assert (row["auc"], row["auc_low"], row["auc_high"], row["right_share"]) == (None, None, None, fits)
    assert alarms(tmp_path) == []


def test_a_perfect_score_is_not_taken_for_certain(tmp_path: Path) -> None:
    write_check(tmp_path, [(0.9, True, 1)] * 10 + [(0.1, False, 1)] * 10)
    (row,) = quality(tmp_path)
    assert row["auc"] == row["auc_high"] == 1
    assert 0.7 < row["auc_low"] < 0.95


def test_intervals_cover(tmp_path: Path) -> None:
    """Of 400 samples of 60 texts, nine tenths or more have the true area of two normal distributions inside."""
    rng, inside = random.Random(0), 0
    true = 0.5 * (1 + math.erf(1 / 2))  # d' 1: Phi(1 / sqrt 2)
    with duckdb.connect() as connection:
        connection.execute(MACROS)
        for _ in range(400):
            texts = [(rng.gauss(1 if at % 2 else 0, 1), bool(at % 2), 1.0) for at in range(60)]
            auc = area(texts)
            ((found,),) = connection.execute(f"SELECT auc_half({auc}, 30, 30)").fetchall()
            inside += abs((auc or 0) - true) <= found
    assert 0.92 * 400 <= inside <= 0.99 * 400


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def answered(run: Path, size: int) -> list[dict[str, Any]]:
    """A sample of round 1 that is answered by chance, more often yes where the ITM score is high."""
    path, rng = draw_sample(run, 1, size), random.Random(1)
    rows = read_labels(path)
    for row in rows:
        row["answer"] = "unsure" if rng.random() < 0.1 else "yes" if rng.random() < row["itm_score"] else "no"
    write_labels(path, rows)
    return rows


def test_answers_count_for_the_texts_of_their_stratum(run: Path) -> None:
    rows = [row for row in answered(run, 70) if row["answer"] in ("yes", "no")]
    found = {(row["source"], row["score"], row["basis"]): row for row in quality(run)}
    for source in ("web", "synthetic"):
        mine = [row for row in rows if row["source"] == source]
        sizes = {kept: sum(row["kept"] == kept for row in mine) for kept in (True, False)}
        weights = [row["stratum_rows"] / sizes[row["kept"]] for row in mine]
        assert len(set(weights)) == 2, "else the weights are not tested"
        fits = [row["answer"] == "yes" for row in mine]
        row = found[source, "itm", "answers"]
        texts = [(one["itm_score"], fit, weight) for one, fit, weight in zip(mine, fits, weights, strict=True)]
        expected = area(texts) or 0
        ends = half(
            expected, *(kish([w for w, f in zip(weights, fits, strict=True) if f == kind]) for kind in (True, False))
        )
        assert row["auc"] == pytest.approx(expected)
        assert row["auc"] - row["auc_low"] == pytest.approx(ends)
        right = sum(weight for weight, fit in zip(weights, fits, strict=True) if fit)
        kept = sum(weight for one, weight in zip(mine, weights, strict=True) if one["kept"])
        hits = sum(w for one, w, fit in zip(mine, weights, fits, strict=True) if one["kept"] and fit)
        assert row["right_share"] == pytest.approx(right / sum(weights))
        assert (row["precision"], row["recall"]) == pytest.approx((hits / kept, hits / right))
        assert row["recall_low"] < row["recall"] < row["recall_high"]
        assert (source, "itm", "human_captions") in found


def test_the_figures_of_a_round_have_them(run: Path) -> None:
    path = write_figures(run, 1, run / "truth.tsv")
    before = json.loads(path.read_text())
    assert before["filter_quality"].keys() == {"web", "synthetic"}
    assert before["filter_quality"]["web"].keys() == {"itm", "itc"}
    assert "answered_filter_quality" not in before
    assert before["rule_auc_web"] == before["filter_quality"]["web"]["itm"] > before["rule_auc_synthetic"]
    answered(run, 60)
    after = json.loads(write_figures(run, 1, run / "truth.tsv").read_text())
    assert after["filter_quality"] == before["filter_quality"]
    assert after["answered_filter_quality"]["synthetic"].keys() == {"itm", "itc", "logprob"}


def test_a_round_without_either_has_none(run: Path) -> None:
    shutil.rmtree(run / "round-01/filter_check")
    assert quality(run) == []
    assert "filter_quality" not in json.loads(write_figures(run, 1).read_text())
    assert not labels_path(run, 1).exists()


def test_the_filter_is_blind(tmp_path: Path) -> None:
    rng = random.Random(4)
    write_check(tmp_path, [(rng.random(), rng.random() < 0.5, 1) for _ in range(300)])
    (alarm,) = alarms(tmp_path)
    assert alarm.name == "filter_blind"
    assert alarm.message.startswith("the filter cannot tell this captioner's errors apart: AUC 0.")
    assert alarm.message.endswith("no score that is stored tells them well")


def told(score: str, auc: float, **more: Any) -> dict[str, Any]:
    row = {"round": 1, "source": "synthetic", "basis": "human_captions", "texts": 200, "score": score, "auc": auc}
    return row | {"auc_low": auc - 0.05, "auc_high": auc + 0.05, "cuts": score == "itm"} | more


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [told("itm", 0.66), told("itc", 0.84)],
            "of the synthetic texts; itc 0.84 (0.79 to 0.89) can: see select.score",
        ),
        ([told("itm", 0.66, source="web")], "cannot tell wrong web texts apart: AUC 0.66 (0.61 to 0.71)"),
        ([told("itm", BLIND - 0.04), told("itc", 0.9)], None),
        ([told("itm", 0.9), told("itc", 0.5)], None),
        ([told("itm", 0.5, round=2)], None),
        ([told("itm", 0.5, cuts=False)], None),
        ([told("itm", 0.5), told("itm", 0.9, basis="answers", texts=LEAST_ANSWERS)], None),
        ([told("itm", 0.5), told("itm", 0.9, basis="answers", texts=LEAST_ANSWERS - 1)], "AUC 0.50"),
        ([told("itm", 0.5, basis="answers", texts=LEAST_ANSWERS - 1)], "AUC 0.50"),
        ([told("itm", 0.5) | {"auc": None, "auc_low": None, "auc_high": None}], None),
    ],
)
def test_when_the_filter_is_blind(rows: list[dict[str, Any]], said: str | None) -> None:
    found = [message for name, message in blindness(rows, 1) if name == "filter_blind"]
    assert (said in found[0]) if said else not found


def test_a_fraction_by_another_score_is_judged_by_that_score(run: Path) -> None:
    pairs = run / "round-01/pairs"
    shutil.rmtree(pairs)
    pairs.mkdir()
    select_pairs(pairs, run / "round-01/captions", config=SelectConfig(strategy="fraction", score="itc"))
    assert {row["score"] for row in quality(run) if row["cuts"]} == {"itc"}


RULES: dict[str, dict[str, Any]] = {
    "ranks": {"strategy": "fraction", "score": ["itm", "itc"], "keep_fraction": {"web": 0.3, "synthetic": 0.6}},
    "learned": {"strategy": "learned", "cut_by": "share", "keep_fraction": 0.5},
    "top_k": {"strategy": "top_k", "score": ["itm", "itc"]},
}


def select_by(run: Path, name: str) -> list[dict[str, Any]]:
    """Select anew by a rule with scores of its own; its pairs."""
    labels = {}
    if name == "learned":
        answered(run, 70)
        labels = {"labels": Path(shutil.copy(labels_path(run, 1), run / "mine.parquet"))}
        labels_path(run, 1).unlink()
    pairs = run / "round-01/pairs"
    shutil.rmtree(pairs)
    pairs.mkdir()
    select_pairs(pairs, run / "round-01/captions", config=SelectConfig.model_validate({**RULES[name], **labels}))
    return [row for file in parquet.parquet_files(pairs) for row in parquet.read_parquet(file).to_pylist()]


@pytest.mark.parametrize("name", RULES)
def test_known_texts_get_the_rules_score_as_texts_of_the_round_do(run: Path, name: str) -> None:
    """Checked with texts of the round itself, whose score and verdict are in `pairs`."""
    rng, pairs = random.Random(2), select_by(run, name)
    folder = run / "round-01/captions"
    captions = [row for file in parquet.parquet_files(folder) for row in parquet.read_parquet(file).to_pylist()]
    empty = dict.fromkeys(tables.FILTER_CHECK.schema.names)
    rows = [
        {**{name: row[name] for name in empty if name in row}, "name": "", "kind": "synthetic", "human_agreement": None,
         "fits": rng.random() < (pair["itm_score"] or 0)}
        for row, pair in zip(captions, pairs, strict=True)
    ]  # fmt: skip
    data = parquet.rows_to_table(rows, tables.FILTER_CHECK)
    parquet.write_parquet(run / "round-01/filter_check/part-00000.parquet", data, tables.FILTER_CHECK)
    with connect(run) as connection:
        given = connection.execute("SELECT key, source, rule_score FROM filter_check").fetchall()
    assert given == [(pair["key"], pair["source"], pair["rule_score"]) for pair in pairs]
    assert any(score is not None for _, _, score in given)
    for row in (row for row in quality(run) if row["score"] == "rule"):
        mine = [(p, r["fits"]) for p, r in zip(pairs, rows, strict=True) if p["source"] == row["source"]]
        mine = [(pair, fits) for pair, fits in mine if pair["rule_score"] is not None]
        assert row["basis"] == "human_captions"
        assert row["auc"] == pytest.approx(area([(pair["rule_score"], fits, 1) for pair, fits in mine]))
        assert row["auc_low"] < row["auc"] < row["auc_high"]
        assert row["cuts"] == (name != "top_k"), "top_k cuts by ITM"
        if row["cuts"]:
            passed = [fits for pair, fits in mine if not pair["rejected"]]
            found = sum(passed) / len(passed), sum(passed) / sum(fits for _, fits in mine)
            assert (row["precision"], row["recall"]) == pytest.approx(found)
            assert row["precision_low"] < row["precision"] < row["precision_high"]


@pytest.mark.parametrize("name", ["ranks", "learned"])
def test_a_rule_of_its_own_is_found_blind_without_an_answer(run: Path, name: str) -> None:
    select_by(run, name)
    path, rng = run / "round-01/filter_check/part-00000.parquet", random.Random(1)
    empty = dict.fromkeys(tables.FILTER_CHECK.schema.names)
    rows = [
        empty | {"key": str(at), "source": "synthetic", "kind": "synthetic", "caption": "a red cube", "num_tokens": 6,
                 "fits": at % 2 == 0, "itm_score": rng.random(), "itc_score": rng.random()}
        for at in range(400)
    ]  # fmt: skip
    parquet.write_parquet(path, parquet.rows_to_table(rows, tables.FILTER_CHECK), tables.FILTER_CHECK)
    assert "filter_blind" in [alarm.name for alarm in alarms(run, 1)]
    figures = json.loads(write_figures(run, 1).read_text())
    assert figures["rule_auc_synthetic"] == figures["filter_quality"]["synthetic"]["rule"] < 0.6


def test_a_rule_that_names_no_score_there_is_is_told(run: Path) -> None:
    judge = {"web": {"kind": "learned", "intercept": 0, "features": [{"name": "x", "mean": 0, "sd": 1, "weight": 1}]}}
    rule = {"rule": json.dumps({"strategy": "learned", "judge": judge})}
    pairs = parquet.rows_to_table([], tables.PAIRS)
    parquet.write_parquet(run / "round-01/pairs/part-00000.parquet", pairs, tables.PAIRS, rule)
    with pytest.raises(InputError, match="a rule in the pairs' metadata goes by 'x'; known are itm, itc"):
        quality(run)


def test_a_learned_rule_is_not_flattered_by_its_own_answers(run: Path) -> None:
    answered(run, 70)
    labels, pairs = shutil.copy(labels_path(run, 1), run / "mine.parquet"), run / "round-01/pairs"
    shutil.rmtree(pairs)
    pairs.mkdir()
    rule = SelectConfig(strategy="learned", labels=Path(labels), cut_by="share")
    select_pairs(pairs, run / "round-01/captions", config=rule)
    record = json.loads((pairs / "rule.json").read_text())["sources"]
    rows = [row for row in quality(run) if row["score"] == "rule" and row["basis"] == "answers"]
    assert {row["source"]: row["auc"] for row in rows} == {source: one["auc"] for source, one in record.items()}
    assert all(
        (row["auc_low"], row["auc_high"]) == (record[row["source"]]["auc_low"], record[row["source"]]["auc_high"])
        for row in rows
    )
