"""Calibration on human captions with their own and with other pictures, without an answer about the web."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap import tables
from tests.unit.test_select_strategies import label_file, noise_of, scored, selected


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

    table = tables.rows_to_table(drawn(6000, share, "web"), tables.CAPTIONS)
    tables.write_parquet(tmp_path / "captions" / "part-00000.parquet", table, tables.CAPTIONS)
    labels = label_file(tmp_path, drawn(600, 0.5, "human"))
    chosen, counts = selected(tmp_path / "captions", strategy="target_noise", target_noise=0.1, labels=labels)
    assert noise_of(chosen) == pytest.approx(0.1, abs=0.03)
    assert counts["expected_noise_low"] <= noise_of(chosen) <= counts["expected_noise_high"]
    assert counts["expected_recall_low"] <= recall_of(chosen) <= counts["expected_recall_high"]
