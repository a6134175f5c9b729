"""Calibration on human captions with their own and with other pictures, without an answer about the web."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blip_bootstrap.schemas import tables
from blip_bootstrap.select.calibrate import calibrate, find_threshold
from blip_bootstrap.storage import parquet
from tests.bench.target_noise import (
    WORLDS,
    World,
    by_posterior,
    counted,
    drawn_rows,
    end_of,
    human_pairs,
    noise_above,
    stratified,
)
from tests.support.scored_texts import label_file, noise_of, scored, selected


def recall_of(rows: list[dict[str, Any]]) -> float:
    fits = [row for row in rows if row["caption"].endswith("fits")]
    return float(sum(row["kept"] for row in fits) / len(fits))


@pytest.mark.parametrize("share", [0.25, 0.7])
def test_human_pairs_calibrate_texts_of_another_share(tmp_path: Path, share: float) -> None:
    """Half of the human pairs fit, of the texts `share`: the target is met although none of these is labelled."""
    rng = random.Random(11)

    def drawn(number: int, fits: float, source: str) -> list[dict[str, Any]]:
        rows = scored(number, 1, seed=number)
        for row in rows:
            right = rng.random() < fits
            row |= {"itm_score": rng.betavariate(3, 1) if right else rng.betavariate(1, 3), "source": source}
            row["caption"] = f"text {row['key']} {'fits' if right else 'not'}"
        return rows

    table = parquet.rows_to_table(drawn(6000, share, "web"), tables.CAPTIONS)
    parquet.write_parquet(tmp_path / "captions" / "part-00000.parquet", table, tables.CAPTIONS)
    labels = label_file(tmp_path, drawn(600, 0.5, "human"))
    chosen, counts = selected(tmp_path / "captions", strategy="target_noise", target_noise=0.1, labels=labels)
    assert noise_of(chosen) == pytest.approx(0.1, abs=0.03)
    assert counts["expected_noise_low"] <= noise_of(chosen) <= counts["expected_noise_high"]
    assert counts["expected_recall_low"] <= recall_of(chosen) <= counts["expected_recall_high"]


def test_a_sharp_filter_is_cut_among_its_highest_scores() -> None:
    """The target is met above .999, where a third of all texts are."""
    rng = np.random.default_rng(3)
    world = World((0.5, 9, 2), (0.5, 3, 3), (0, 0, 1), (0, 0, 1))
    rows = drawn_rows(rng, 20_000, world)
    found = find_threshold(rows[:4000], counted(rows), 0.05)
    assert 0.999 < found.threshold < 1
    assert noise_above(rows, found.threshold) == pytest.approx(0.05, abs=0.01)


def test_target_noise_is_met_on_average_and_the_interval_holds_it() -> None:
    """Over 60 draws of 200 answers."""
    rng = np.random.default_rng(8)
    rows = drawn_rows(rng, 5000, WORLDS["sharp"])
    counts = counted(rows)
    ends = [end_of(by_posterior, stratified(rng, rows), counts, 0.1, rows) for _ in range(60)]
    noise, _, held = np.array([end for end in ends if end]).T
    assert noise.mean() == pytest.approx(0.1, abs=0.01)
    assert len(noise) >= 57
    assert held.mean() >= 0.9


def test_web_texts_show_what_human_texts_do_not() -> None:
    """Unrelated web texts are scored higher than human captions of another picture: as negatives they set it right."""
    rng = np.random.default_rng(9)
    world = World((0.45, 1.7, 1.8), (0.25, -2.6, 1.8), (0.3, -0.2, 0.6), (0, 0, 1))
    rows = drawn_rows(rng, 5000, world)

    def end(web_texts: bool) -> float:
        cut = find_threshold(human_pairs(rng, world, web_texts), counted(rows), 0.1)
        return noise_above(rows, cut.threshold)

    assert end(web_texts=True) == pytest.approx(0.1, abs=0.04)
    assert end(web_texts=False) > 0.15


def test_scores_that_are_no_numbers_are_no_highest_scores(tmp_path: Path) -> None:
    """A third of the scores is NaN, and none is null: they must not be counted among the surest texts."""
    rows = scored(900)
    labels = label_file(tmp_path, rows[:300])
    cuts = []
    for name, some in (("clean", rows), ("odd", [row | {"itm_score": float("nan")} for row in rows] + rows)):
        path = tmp_path / name / "part-00000.parquet"
        parquet.write_parquet(path, parquet.rows_to_table(some, tables.CAPTIONS), tables.CAPTIONS)
        cuts.append(calibrate([path], labels, ["web", "synthetic"], 0.2))
    assert cuts[0] == cuts[1]
