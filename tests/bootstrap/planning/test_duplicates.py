"""What a plan says of finding pictures that are there several times."""

from __future__ import annotations

from pathlib import Path

import pytest

from blip_bootstrap.config import Config
from blip_bootstrap.planning.duplicates import measure_duplicates
from blip_bootstrap.planning.sample import drawn_sample


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({}, ["group pictures"]), ({"near": True}, ["hash pictures", "group pictures"]), ({"exact": False}, [])],
)
def test_each_step_that_a_run_has_is_measured(tmp_path: Path, settings: dict[str, bool], steps: list[str]) -> None:
    config = Config.model_validate({"duplicates": settings, "ray": {"address": "none"}})
    costs = measure_duplicates(config, drawn_sample(tmp_path / "drawn", 8), tmp_path)
    assert [cost.step for cost in costs] == steps
    assert all(cost.seconds_per_image > 0 and cost.bytes_per_image > 0 for cost in costs)
