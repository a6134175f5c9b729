"""The learned rule: its SQL, its figures, and what it does with few, older and missing labels."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.errors import InputError
from blip_bootstrap.query.rule_score import FARTHEST, score_sql
from blip_bootstrap.query.sql_text import scan
from blip_bootstrap.query.verdicts import SCORE_COLUMNS
from blip_bootstrap.report.rule_section import rule_html
from blip_bootstrap.schemas import shown_tables
from blip_bootstrap.select import logistic
from blip_bootstrap.select.enough import enough
from blip_bootstrap.select.features import Moments, feature_of, find_moments, standardised
from blip_bootstrap.select.label_rows import read_answers
from blip_bootstrap.select.learn import learn, record_of
from blip_bootstrap.select.pairs import select_web_pairs
from blip_bootstrap.storage import parquet
from tests.bootstrap.select.answered_texts import answered_row, fits_of, label_file, some, texts, write
from tests.support.scored_texts import selected


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    return write(tmp_path / "run" / "round-01" / "captions", texts(1500))


def test_fifty_answers_beat_every_single_score(captions: Path) -> None:
    moments = find_moments([captions / "part-00000.parquet"], "synthetic")
    rest = some(captions, 1500, "synthetic", seed=8)
    for seed in range(3):
        learned = learn([answered_row(row) for row in some(captions, 50, "synthetic", seed)], "synthetic", moments)
        assert min(learned.weights[:4]) >= 0
        found = logistic.log_odds_of(standardised(rest, learned.moments), learned.weights)
        single = [logistic.auc(np.array([feature_of(row, name) for row in rest]), fits_of(rest)) for name in moments]
        assert logistic.auc(found, fits_of(rest)) > max(single) + 0.03


def test_the_rules_sql_is_numpys(tmp_path: Path) -> None:
    rows = texts(60)
    rows[1]["logprob"], rows[4]["itc_score"], rows[7]["agreement"] = None, float("nan"), None
    rows[10]["logprob"] = -1e30
    rows[13] |= dict.fromkeys(("logprob", "itc_score", "itm_score", "agreement"))
    file = write(tmp_path, rows) / "part-00000.parquet"
    moments = find_moments([file], "synthetic") | {"logprob": Moments(-30.0, 8.0, 1.0)}
    learned = learn([answered_row(row) for row in rows[20:] if row["source"] == "synthetic"], "synthetic", moments)
    mine = [row for row in parquet.read_parquet(file).to_pylist() if row["source"] == "synthetic"]
    expected = logistic.sigmoid(logistic.log_odds_of(standardised(mine, learned.moments), learned.weights))
    sql = score_sql({"synthetic": json.loads(json.dumps(record_of(learned)))})
    with duckdb.connect() as connection:
        found = {row[:2]: row[2] for row in connection.execute(f"SELECT key, candidate, {sql} FROM {scan([file])} "
                                                               "WHERE source = 'synthetic'").fetchall()}  # fmt: skip
    lacking = rows[13]["key"], rows[13]["candidate"]
    assert found.pop(lacking) is None
    for row, value in zip(mine, expected, strict=True):
        if (row["key"], row["candidate"]) != lacking:
            assert found[row["key"], row["candidate"]] == pytest.approx(value, abs=1e-6)
    assert np.abs(standardised(mine, learned.moments)).max() <= FARTHEST


def test_learned_meets_the_target_noise_and_keeps_its_record(captions: Path) -> None:
    labels = label_file(captions.parents[1] / "labels" / "round-01.parquet", some(captions, 400))
    pairs, counts = selected(captions, strategy="learned", labels=labels, target_noise=0.1)
    noise = 1 - fits_of([row for row in pairs if row["kept"]]).mean()
    assert noise == pytest.approx(0.1, abs=0.05)
    assert counts["expected_noise_low"] - 0.01 <= noise <= counts["expected_noise_high"] + 0.01
    assert counts["rule_score_cut_web"] == counts["rule_score_cut_synthetic"]
    assert 0.9 < counts["rule_auc_synthetic"] < 1
    assert "learned from" in counts["rule_web"]
    assert counts["labels_used"] == 400
    scores = np.array([row["rule_score"] for row in pairs])
    assert 0 <= scores.min() < 0.1 < 0.9 < scores.max() <= 1
    assert all(row["rejected"] == (row["rule_score"] < np.float32(counts["rule_score_cut_web"])) for row in pairs)
    file = next(captions.parent.glob("pairs-*")) / "rule.json"
    record = json.loads(file.read_text())
    assert record["labels"][0]["captioners"] == ["mine"]
    assert record["labels"][0]["digest"].startswith(str(counts["labels_digest"]))
    assert (
        sum(part["number"] for part in record["sources"]["web"]["calibration"])
        == record["sources"]["web"]["yes"] + (record["sources"]["web"]["no"])
    )
    page = rule_html(record)
    assert "cross-validated" in page
    assert "out of fold" in page
    assert rule_html({}) == ""


def test_the_filter_arm_runs_the_learned_rule_with_the_rounds_cut(captions: Path) -> None:
    labels = label_file(captions.parents[1] / "labels" / "round-01.parquet", some(captions, 300))
    pairs, _ = selected(captions, strategy="learned", labels=labels, target_noise=0.15, variety=0.5)
    labels.unlink()
    select_web_pairs(captions.parent / "arm", captions, next(captions.parent.glob("pairs-*")))
    arm = parquet.read_parquet(captions.parent / "arm" / "part-00000.parquet").to_pylist()
    assert [row["rule_score"] for row in arm] == [row["rule_score"] for row in pairs]
    assert [r["kept"] for r in arm if r["source"] == "web"] == [r["kept"] for r in pairs if r["source"] == "web"]


def test_without_labels_the_rule_is_by_rank_and_says_so(captions: Path) -> None:
    pairs, counts = selected(captions, strategy="learned", keep_fraction={"web": 0.25, "synthetic": 0.5})
    assert (counts["kept_web"], counts["kept_synthetic"]) == (375, 1500)
    assert counts["ranked_by_synthetic"] == "itc, logprob; uncalibrated, no labels"
    assert fits_of([row for row in pairs if row["kept"]]).mean() > 0.8
    assert "uncalibrated" in rule_html(json.loads((next(captions.parent.glob("pairs-*")) / "rule.json").read_text()))


def test_a_share_is_kept_by_the_learned_rule(captions: Path) -> None:
    labels = label_file(captions.parents[1] / "labels.parquet", some(captions, 100))
    _, counts = selected(
        captions, strategy="learned", labels=labels, cut_by="share", keep_fraction={"web": 0.4, "synthetic": 0.2}
    )
    assert (counts["kept_web"], counts["kept_synthetic"]) == (600, 600)
    assert 0 <= counts["expected_noise"] < 0.1


def test_one_source_with_labels_and_one_without(captions: Path) -> None:
    labels = label_file(captions.parents[1] / "labels.parquet", some(captions, 100, "synthetic"))
    _, counts = selected(captions, strategy="learned", labels=labels, target_noise=0.1, keep_fraction=0.3)
    assert counts["ranked_by_web"] == "itm, itc; uncalibrated, no labels"
    assert counts["kept_web"] == 450
    assert "rule_auc_synthetic" in counts


def test_human_labels_judge_web_texts_whose_share_is_found(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = [row for row in texts(3000, per_image=0) if row["caption"].endswith("not") or rng.random() < 0.4]
    share = fits_of(rows).mean()
    captions = write(tmp_path / "round-01" / "captions", rows)
    labels = label_file(tmp_path / "labels.parquet", texts(300, seed=9, per_image=0), source="human")
    pairs, counts = selected(captions, strategy="learned", labels=labels, sources=("web",), target_noise=0.1)
    assert "of source human" in str(counts["rule_web"])
    assert 1 - fits_of([row for row in pairs if row["kept"]]).mean() == pytest.approx(0.1, abs=0.04)
    assert np.mean([row["rule_score"] for row in pairs]) == pytest.approx(share, abs=0.04)


def test_older_labels_get_their_scores_from_the_captions_of_their_round(captions: Path) -> None:
    drawn = some(captions, 60, "synthetic")
    labels = label_file(captions.parents[1] / "labels" / "round-01.parquet", drawn)
    older = captions.parents[1] / "labels" / "older.parquet"
    names = shown_tables.LABELS.schema.names
    pq.write_table(pq.read_table(labels).select(names[: names.index("answer") + 1]), older)
    whole, filled = read_answers([labels]), read_answers([older], captions)
    assert [row["logprob"] for row in filled.rows] == [row["logprob"] for row in whole.rows]
    assert (filled.files[0]["used"], filled.files[0]["left_out"]) == (60, 0)
    gone = label_file(
        captions.parents[1] / "labels" / "gone.parquet", [r | {"caption": f"{r['caption']}!"} for r in drawn]
    )
    pq.write_table(pq.read_table(gone).select(names[: names.index("answer") + 1]), gone)
    assert (read_answers([gone]).files[0]["used"], read_answers([gone]).files[0]["left_out"]) == (0, 60)
    with pytest.raises(InputError, match=r"^select\.labels: .* 60 left out, whose scores are not known"):
        selected(captions, strategy="learned", labels=gone)


def test_too_few_labels_and_targets_out_of_reach_are_told(captions: Path) -> None:
    few = label_file(captions.parents[1] / "few.parquet", some(captions, 6))
    with pytest.raises(InputError, match=r"^select\.labels: .*needs 5 texts of a source answered yes and 5"):
        selected(captions, strategy="learned", labels=few)
    rng = random.Random(0)
    random_ones = [row | {"caption": rng.choice(["fits", "not"])} for row in some(captions, 200)]
    hopeless = label_file(captions.parents[1] / "hopeless.parquet", random_ones)
    with pytest.raises(InputError, match=r"^select\.target_noise: .*no threshold keeps noise down to 0\.001"):
        selected(captions, strategy="learned", labels=hopeless, target_noise=0.001)


def test_several_files_are_used_and_named(captions: Path) -> None:
    folder = captions.parents[1] / "labels"
    one = label_file(folder / "one.parquet", some(captions, 40, seed=1))
    two = label_file(folder / "two.parquet", some(captions, 40, seed=2), round=2)
    _, counts = selected(captions, strategy="learned", labels=(one, two), target_noise=0.2)
    assert counts["labels_used"] == 80
    record = json.loads((next(captions.parent.glob("pairs-*")) / "rule.json").read_text())
    assert [one["rounds"] for one in record["labels"]] == [[1], [2]]


def test_a_text_of_several_files_counts_once(captions: Path) -> None:
    one = label_file(captions.parents[1] / "labels" / "one.parquet", some(captions, 60))
    _, once = selected(captions, strategy="learned", labels=one, target_noise=0.2)
    _, twice = selected(captions, strategy="learned", labels=(one, one), target_noise=0.2)
    assert once["labels_used"] == 60
    assert {**twice, "labels_digest": ""} == {**once, "labels_digest": ""}


def test_scores_that_are_nan_are_taken_from_the_captions(captions: Path) -> None:
    """As programs write them that know no null."""
    rows = [row | dict.fromkeys(SCORE_COLUMNS.values(), math.nan) for row in some(captions, 60)]
    known = label_file(captions.parents[1] / "labels" / "known.parquet", some(captions, 60))
    lacking = label_file(captions.parents[1] / "labels" / "lacking.parquet", rows)
    counts = [selected(captions, strategy="learned", labels=one, target_noise=0.2)[1] for one in (known, lacking)]
    assert {**counts[0], "labels_digest": ""} == {**counts[1], "labels_digest": ""}


def test_a_rule_is_not_fitted_to_the_length_alone(captions: Path) -> None:
    labels = label_file(captions.parents[1] / "labels" / "one.parquet", some(captions, 60))
    rows = [row | dict.fromkeys(SCORE_COLUMNS.values(), 0.5) for row in texts(40)]
    constant = write(captions.parents[1] / "constant" / "captions", rows)
    with pytest.raises(InputError, match=r"^select\.labels: .*one\.parquet: no score that differs from text to text"):
        selected(constant, strategy="learned", labels=labels, cut_by="share")


def test_enough_labels_and_no_text_to_judge_give_no_pairs(captions: Path) -> None:
    labels = label_file(captions.parents[1] / "labels" / "one.parquet", some(captions, 60))
    none = write(captions.parents[1] / "none" / "captions", [])
    assert selected(none, strategy="learned", labels=labels)[1]["rows"] == 0
    empty = write(captions.parents[1] / "empty" / "captions", [row | {"caption": ""} for row in texts(9)])
    assert selected(empty, strategy="learned", labels=labels)[1]["dropped_empty_text"] == 27


def test_answers_that_cannot_be_read_are_not_to_be_deleted(captions: Path) -> None:
    (captions.parents[1] / "labels.parquet").write_text("yes, no, yes")
    with pytest.raises(InputError, match=r"labels\.parquet: not a readable Parquet file .*give a file of `audit sampl"):
        selected(captions, strategy="learned", labels=captions.parents[1] / "labels.parquet")


def test_more_answers_help_until_they_do_not(captions: Path) -> None:
    def told(number: int) -> str:
        return enough([answered_row(row) for row in some(captions, number, "synthetic")])

    assert told(8).startswith("synthetic: too few answers")
    assert "place the cut more surely" in told(24)
    assert "more answers would not change much" in told(1200)
    assert enough([]) == ""


def answered_by(sure: Sequence[float], unsure: Sequence[float] = ()) -> list[dict[str, Any]]:
    """Answered texts whose scores all say `sure` apart from noise: above 0 yes, below no; `unsure` ones either."""
    rng, rows = random.Random(3), []
    for at, sign in enumerate([*sure, *unsure]):
        yes = sign > 0 if at < len(sure) else rng.random() < 0.5
        score = sign + rng.gauss(0, 0.1)
        row = dict.fromkeys(shown_tables.LABELS.schema.names)
        rows.append(row | {"round": 1, "key": f"{at:010d}", "source": "web", "candidate": 0, "caption": "a red cube",
                           "itm_score": float(1 / (1 + np.exp(-score))), "itc_score": 0.3 + 0.1 * score,
                           "answer": "yes" if yes else "no"})  # fmt: skip
    return rows


def test_where_the_ranking_is_perfect_more_answers_are_for_the_cut() -> None:
    """12 yes among 50, all told apart: nothing is left to gain by ranking, but 12 say little about the cut."""
    told = enough(answered_by([2.0] * 12 + [-2.0] * 38))
    assert "more answers would help" not in told
    assert "more answers would hardly rank the texts better, but place the cut more surely" in told
    assert re.search(r"AUC 1\.00 \(0\.\d\d to 1\.00\) with 50 answers", told)
    assert re.search(r"100% \((6|7)\d% to 100%\) of 1[12] taken for right are", told)


def test_many_of_both_kinds_told_apart_are_enough() -> None:
    told = enough(answered_by([2.0] * 60 + [-2.0] * 60))
    assert "more answers would not change much (AUC 1.00" in told


def test_where_more_answers_ranked_better_still_more_would_help() -> None:
    told = enough(answered_by([], [0.01 * at for at in range(40)]) + answered_by([-1.0] * 200))
    assert "more answers would help" in told


def test_a_cut_without_a_text_above_it_is_not_sure() -> None:
    """A few are right, and no score tells which."""
    rows = [row | {"answer": "yes" if at % 7 == 0 else "no"} for at, row in enumerate(answered_by([-1.0] * 100))]
    told = enough(rows)
    assert "none is taken for right" in told
    assert "would not change much" not in told
