"""The measurement on photographs: the answers that come with it, and its figures on the small finished run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.labels.truth import load_truth
from blip_bootstrap.select.label_rows import read_answers as read_labels_again
from blip_bootstrap.storage.labels import write_labels
from tests.bench.photographs import ANSWERS, Round, figures, of_answers, read_answers, weighted_auc

SCORES = ("itm_score", "itc_score", "logprob", "logprob_per_token", "lift", "distinctness")


@pytest.mark.parametrize(("human", "number"), [(1000, 200), (300, 60)])
def test_the_answers_are_whole(human: int, number: int) -> None:
    rows = read_answers(ANSWERS, human)
    assert len(rows) == number
    assert {row["answer"] for row in rows} == {"yes", "no"}
    assert len({(row["key"], row["candidate"]) for row in rows}) == number
    assert all(row["image"].endswith(".jpg") and row["caption"] and row["stratum_rows"] > 0 for row in rows)
    assert all(math.isfinite(row[name]) for row in rows for name in SCORES)


def test_the_answers_are_labels_to_learn_from(tmp_path: Path) -> None:
    rows = read_answers(ANSWERS, 1000)
    write_labels(
        tmp_path / "labels.parquet", [{k: v for k, v in r.items() if k not in ("image", "human")} for r in rows]
    )
    found = read_labels_again([tmp_path / "labels.parquet"])
    assert len(found.rows) == 200
    assert found.files[0]["left_out"] == 0


def test_a_text_weighs_as_many_as_it_stands_for() -> None:
    scores, right = [0.9, 0.5, 0.4, None], [True, False, True, True]
    assert weighted_auc(scores, right, [1.0, 1.0, 1.0, 1.0])["auc"] == pytest.approx(1 / 2)
    assert weighted_auc(scores, right, [3.0, 1.0, 1.0, 1.0])["auc"] == pytest.approx(3 / 4)
    assert weighted_auc(scores, right, [1.0, 1.0, 1.0, 1.0])["texts"] == 3
    assert math.isnan(weighted_auc([0.1, 0.2], [True, True], [1.0, 1.0])["auc"])
    assert math.isnan(weighted_auc([], [], [])["auc"])


def test_answers_count_for_their_stratum() -> None:
    def row(key: str, kept: bool, answer: str, score: float) -> dict[str, Any]:
        stratum = 30 if kept else 10
        own = {"key": key, "source": "synthetic", "candidate": 0, "kept": kept, "answer": answer}
        return own | {"stratum_rows": stratum, "itm_score": score}

    rows = [row("a", True, "yes", 0.9), row("b", False, "yes", 0.1), row("c", False, "no", 0.3)]
    assert of_answers(rows, "itm_score")["auc"] == pytest.approx(30 / 35), (
        "the kept one stands for 30, the others for 5"
    )


def test_it_measures_without_touching_the_round(finished_run: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    for name in ("images", "round-01"):
        (root / name).symlink_to(finished_run / name)
    before = {file: file.stat().st_mtime_ns for file in finished_run.rglob("*")}
    truth = load_truth(finished_run / "truth.tsv")
    texts = [
        row for row in Round(root, truth, []).texts if row["source"] == "synthetic" and row["itm_score"] is not None
    ]
    answers = [row | {"stratum_rows": 20, "answer": "yes" if at % 2 else "no"} for at, row in enumerate(texts[:50])]
    found = figures(Round(root, truth, answers))
    assert {file: file.stat().st_mtime_ns for file in finished_run.rglob("*")} == before
    assert found["web"]["itm"]["all"] == found["web"]["itm"]["mismatch"]
    assert found["web"]["itm"]["all"]["auc"] > 0.9
    assert math.isnan(found["web"]["itm"]["damaged"]["auc"]), "there is no such text"
    assert found["synthetic"]["itm"]["texts"] == 50
    assert {"itm", "rank", "learned 50"} <= set(found["kept"])
