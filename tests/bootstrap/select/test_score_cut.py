"""The score that cuts off a share: to the row, whatever the scores are."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.schemas import tables
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.select.score_cut import ScoreCut, find_score_cut
from blip_bootstrap.storage import parquet

INF, NAN = float("inf"), float("nan")


def cut(folder: Path, scores: list[float | None], share: float) -> ScoreCut:
    rows: list[dict[str, object]] = [
        {"key": f"{at:010d}", "source": "web", "candidate": 0, "caption": f"text {at}", "itm_score": 0.5, "flags": [],
         "itc_score": score}
        for at, score in enumerate(scores)
    ]  # fmt: skip
    path = folder / "captions/part-00000.parquet"
    parquet.write_parquet(path, parquet.rows_to_table(rows, tables.CAPTIONS), tables.CAPTIONS)
    return find_score_cut([path], "itc_score", ("web",), share)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.7, 0.999, 1.0])
@pytest.mark.parametrize("kind", ["even", "sharp", "log", "tiny", "huge", "tied"])
def test_the_share_is_met_to_the_row(tmp_path: Path, kind: str, share: float) -> None:
    rng = random.Random(2)
    draw = {
        "even": rng.random,
        "sharp": lambda: 1 - rng.random() ** 12,  # half within 0.001 of 1
        "log": lambda: -30 * rng.random() ** 3,
        "tiny": lambda: 10 ** rng.uniform(-40, -30),
        "huge": lambda: rng.choice([-1, 1]) * 10 ** rng.uniform(-38, 38),
        "tied": lambda: rng.choice([0.25, 0.5, 0.75, 1.0]),
    }[kind]
    scores = np.array([draw() for _ in range(3000)], dtype=np.float32)
    found = cut(tmp_path, [float(score) for score in scores], share)
    expected = np.sort(scores)[::-1][math.ceil(3000 * share) - 1]
    assert np.float32(found.at) == expected
    assert found.share == (scores >= expected).mean() >= share
    assert (scores > expected).mean() < share, "a higher cut would leave too few"


@pytest.mark.parametrize(
    ("scores", "share", "at", "left"),
    [
        ([0.25] * 10, 0.3, 0.25, 1.0),  # of the same score all or none
        ([0.25] * 10, 1.0, 0.25, 1.0),
        ([0.25], 0.01, 0.25, 1.0),
        ([0.5, 0.25], 0.5, 0.5, 0.5),
        ([None, NAN, 0.5, 0.25, NAN, None], 0.5, 0.5, 0.5),  # what has no score is not counted
        ([INF, 1.0, -INF, -INF], 0.25, INF, 0.25),
        ([INF, 1.0, -INF, -INF], 0.5, 1.0, 0.5),
        ([INF, 1.0, -INF, -INF], 0.75, -INF, 1.0),
        ([0.0, -0.0, 1.0], 0.5, 0.0, 1.0),
        ([NAN, 0.5, 0.25, 0.75, NAN], 0.5, 0.5, 2 / 3),
        ([], 0.5, 0.0, 0.0),
        ([None, NAN], 0.5, 0.0, 0.0),
    ],
)
def test_ties_gaps_and_ends(tmp_path: Path, scores: list[float | None], share: float, at: float, left: float) -> None:
    found = cut(tmp_path, scores, share)
    assert (found.at, found.share) == (at, left if scores and any(s == s and s is not None for s in scores) else 0.0)


@pytest.mark.parametrize("scores", [[0.25, 0.5], [1.0] * 3, [-2.0], [INF, 0.0], [3.4028234663852886e38]])
def test_a_share_of_nothing_leaves_nothing_finite(tmp_path: Path, scores: list[float | None]) -> None:
    found = cut(tmp_path, scores, 0.0)
    assert found.share == 0
    assert all(score is None or score < found.at or score == INF for score in scores)


@pytest.mark.parametrize(
    ("scores", "share", "kept"),
    [([0.25] * 10, 0.3, 10), ([0.1, 0.2, 0.3, 0.4], 0.5, 2), ([0.1, 0.2, 0.3, 0.4], 0.0, 0), ([INF, 1, -INF], 0.3, 1)],
)
def test_the_selection_keeps_what_the_cut_leaves(
    tmp_path: Path, scores: list[float | None], share: float, kept: int
) -> None:
    found = cut(tmp_path, scores, share)
    config = SelectConfig(strategy="fraction", score="itc", keep_fraction=share)
    counts = select_pairs(tmp_path / "pairs", tmp_path / "captions", config=config)
    assert (counts["kept"], counts["itc_score_cut"]) == (kept, found.at)
    assert counts["itc_score_cut_leaves"] == kept / len(scores)
