"""The measurement of spot checks against a known truth, on the small finished run."""

from __future__ import annotations

from pathlib import Path

import pytest

from blip_bootstrap.labels.truth import load_truth
from tests.bench.spot_check import measure


def test_it_measures_without_touching_the_run(finished_run: Path) -> None:
    before = sorted(finished_run.rglob("*"))
    found = measure(finished_run, 1, load_truth(finished_run / "truth.tsv"), seeds=2, size=200, target=0.1)
    assert sorted(finished_run.rglob("*")) == before
    assert found["noise_true"] == pytest.approx(25 / 78), "24 mismatched texts and an empty one"
    assert found["noise_kept_true"] == pytest.approx(1 / 50)
    assert found["noise_held"] == found["noise_kept_held"] == 2
    assert found["by_human_pairs"] is None
    by_sample = found["by_sample"]
    assert isinstance(by_sample, list)
    assert all(noise < 0.2 for noise in by_sample)
