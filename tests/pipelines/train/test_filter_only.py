"""The control arm `filter_only`: the round's rule and cut, on the web texts alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.config import Config, SelectConfig
from blip_bootstrap.loop.check import check_config
from blip_bootstrap.schemas import tables
from blip_bootstrap.schemas.shown_tables import LABELS
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.storage import parquet
from blip_pipelines.train.control_pairs import write_arm_pairs

NUMBER = 1000


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Web texts that all pass .5, each beaten by two synthetic ones; some of them say the same."""
    rng, rows = random.Random(1), []
    for at in range(NUMBER):
        web = rng.uniform(0.5, 0.8)
        texts = [("web", 0, f"text {at}", web), ("synthetic", 0, f"better {at}", rng.uniform(0.8, 1))]
        said = f"TEXT {at}" if at % 4 == 2 else f"other {at}"
        for source, candidate, text, score in [*texts, ("synthetic", 1, said, rng.uniform(0.8, 1))]:
            rows.append(
                {"key": f"{at:010d}", "source": source, "candidate": candidate, "caption": text, "itm_score": score,
                 "itc_score": score - 0.1, "logprob": None if source == "web" else -score, "flags": []}
            )  # fmt: skip
    folder = tmp_path_factory.mktemp("arm") / "captions"
    for part in range(2):
        half = parquet.rows_to_table(rows[part * 1500 : (part + 1) * 1500], tables.CAPTIONS)
        parquet.write_parquet(folder / f"part-{part:05d}.parquet", half, tables.CAPTIONS)
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for file in parquet.parquet_files(folder) for row in parquet.read_parquet(file).to_pylist()]


def arm(captions: Path, out: Path, **settings: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of the arm's pairs, and what selecting the round's counted."""
    counts = select_pairs(out / "pairs", captions, config=SelectConfig(**settings))
    folder = write_arm_pairs(out / "arm", "filter_only", captions, out / "pairs", None)
    assert folder == out / "arm"
    rows = rows_of(folder)
    names = ("key", "source", "candidate")
    assert [[row[n] for n in names] for row in rows] == [[row[n] for n in names] for row in rows_of(captions)]
    assert all(row["kept"] == (row["reason"] is None) for row in rows)
    assert not any(row["kept"] for row in rows if row["source"] == "synthetic")
    return rows, dict(counts)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"strategy": "best_per_image"},
        {"strategy": "best_per_image", "score": "itc"},
        {"strategy": "top_k", "top_k": 2},
        {"strategy": "top_k", "score": "logprob"},
        {"synthetic_share": 1.0},
        {"synthetic_share": 0.9},
        {"strategy": "top_k", "top_k": 1, "synthetic_share": 0.5},
        {"sources": ("synthetic",)},
        {"explore_share": 0.5},
    ],
)
def test_every_web_text_that_passes_is_kept(captions: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    rows, _ = arm(captions, tmp_path, **settings)
    assert sum(row["kept"] for row in rows) == NUMBER


@pytest.mark.parametrize("strategy", ["threshold", "best_per_image", "top_k"])
def test_the_threshold_still_cuts(captions: Path, tmp_path: Path, strategy: str) -> None:
    rows, counts = arm(captions, tmp_path, strategy=strategy, itm_threshold=0.65)
    web = [row for row in rows if row["source"] == "web"]
    assert [row["kept"] for row in web] == [np.float32(row["itm_score"]) >= np.float32(0.65) for row in web]
    assert 0 < sum(row["kept"] for row in web) < NUMBER
    if strategy == "threshold":
        assert sum(row["kept"] for row in web) == counts["kept_web"]


@pytest.mark.parametrize("score", ["itm", "itc"])
def test_a_share_is_cut_where_the_round_cut_it(captions: Path, tmp_path: Path, score: str) -> None:
    rows, counts = arm(captions, tmp_path, strategy="fraction", keep_fraction=0.8, score=score)
    assert sum(row["kept"] for row in rows) == counts["kept_web"] == pytest.approx(400, abs=1)
    assert {row["reason"] for row in rows if row["source"] == "web"} == {None, "below_threshold"}


def test_labels_are_not_asked_again(captions: Path, tmp_path: Path) -> None:
    rng, labels = random.Random(2), tmp_path / "labels.parquet"
    answered = [
        dict.fromkeys(LABELS.schema.names)
        | {"key": str(at), "source": source, "itm_score": at / 99, "answer": "yes" if rng.random() < at / 99 else "no"}
        for at in range(100)
        for source in ("web", "synthetic")
    ]
    parquet.write_parquet(labels, parquet.rows_to_table(answered, LABELS), LABELS)
    select_pairs(
        tmp_path / "pairs", captions, config=SelectConfig(strategy="target_noise", target_noise=0.2, labels=labels)
    )
    labels.unlink()
    write_arm_pairs(tmp_path / "arm", "filter_only", captions, tmp_path / "pairs", None)
    kept = {
        name: [row["kept"] for row in rows_of(tmp_path / name) if row["source"] == "web"] for name in ("arm", "pairs")
    }
    assert kept["arm"] == kept["pairs"]


def test_the_arm_goes_on_where_it_was_and_says_its_rule(captions: Path, tmp_path: Path) -> None:
    rows, _ = arm(captions, tmp_path, strategy="best_per_image")
    first, second = parquet.parquet_files(tmp_path / "arm")
    assert b'"sources": ["web"]' in pq.read_metadata(first).metadata[b"rule"]
    stamp = first.stat().st_mtime_ns
    second.unlink()
    write_arm_pairs(tmp_path / "arm", "filter_only", captions, tmp_path / "pairs", None)
    assert first.stat().st_mtime_ns == stamp
    assert rows_of(tmp_path / "arm") == rows


def test_a_cut_that_no_web_text_can_pass_is_told_before_anything_is_made(tmp_path: Path) -> None:
    select = {"strategy": "fraction", "score": "logprob", "sources": ["synthetic"]}
    config = Config.model_validate({"root": tmp_path, "select": select, "controls": {"arms": ["filter_only"]}})
    assert [line for line in check_config(config, 1) if "filter_only" in line]
    assert not [line for line in check_config(config, 0) if "filter_only" in line]


def test_the_paper_rule_judges_the_same_texts_by_itm_alone(captions: Path, tmp_path: Path) -> None:
    select_pairs(tmp_path / "pairs", captions, config=SelectConfig(strategy="fraction", score="itc", keep_fraction=0.1))
    write_arm_pairs(tmp_path / "arm", "paper_rule", captions, tmp_path / "pairs", None)
    rows = rows_of(tmp_path / "arm")
    select_pairs(tmp_path / "paper", captions, config=SelectConfig())
    assert rows == rows_of(tmp_path / "paper") != rows_of(tmp_path / "pairs")
    assert {row["rejected"] for row in rows} == {False}  # all of them score .5 and more
