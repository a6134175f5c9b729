"""A training on Ray whose process dies: started again while it makes progress, ended in a line where it makes none."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.config import RayConfig
from blip_bootstrap.errors import RunFailed
from blip_pipelines.train.failures import MAX_FAILURES, Failures, progress_of
from blip_pipelines.train.runner import Training, train
from blip_training.train.checkpoint_files import checkpoint_path


def checkpoint(out: Path, step: int) -> None:
    checkpoint_path(out, step).parent.mkdir(parents=True, exist_ok=True)
    checkpoint_path(out, step).touch()


def test_progress_is_the_newest_checkpoint_of_a_training_or_of_an_arms(tmp_path: Path) -> None:
    assert progress_of(tmp_path / "not there") == 0
    checkpoint(tmp_path, 1200)
    checkpoint(tmp_path / "model", 1300)
    assert progress_of(tmp_path) == 1300


def test_failures_in_a_row_are_counted_from_the_last_new_checkpoint(tmp_path: Path) -> None:
    failures = Failures("pretrain", tmp_path)
    for step in range(1, 20):
        assert not failures.count("it died")
        checkpoint(tmp_path, 100 * step)
        assert failures.count("it died")
    for _ in range(MAX_FAILURES - 2):
        assert not failures.count("it died")
    with pytest.raises(RunFailed, match=r"^pretrain: failed 3 times in a row since its checkpoint of step 1,900 \(it "):
        failures.count("it died")


def dying(out: Path, progress: int, raises: bool = False) -> Training:
    """A training of which each process dies, after a new checkpoint while there are fewer than `progress` of them."""

    def call() -> dict[str, Any]:
        (out / "starts").open("a").write("1")
        step = progress_of(out) + 1
        if step > progress and progress > MAX_FAILURES:
            return {"steps": step}
        if step <= progress:
            checkpoint(out, step)
        if raises:
            raise ValueError("a GPU fell off")
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    return Training("pretrain", out, 9, call, threads=1, device="cpu")


@pytest.mark.ray
@pytest.mark.parametrize("raises", [False, True])
def test_more_deaths_than_three_end_no_training_that_makes_progress(
    tmp_path: Path, ray_config: RayConfig, raises: bool
) -> None:
    assert train(dying(tmp_path, MAX_FAILURES + 2, raises), ray_config) == {"steps": MAX_FAILURES + 3}


@pytest.mark.ray
def test_three_deaths_in_a_row_at_one_checkpoint_end_it(tmp_path: Path, ray_config: RayConfig) -> None:
    with pytest.raises(
        RunFailed, match=r"^pretrain: failed 3 times in a row since its checkpoint of step 1 \(its proc"
    ):
        train(dying(tmp_path, 1), ray_config)
    assert len((tmp_path / "starts").read_text()) == MAX_FAILURES


@pytest.mark.ray
def test_an_error_without_progress_is_told_at_once(tmp_path: Path, ray_config: RayConfig) -> None:
    with pytest.raises(RunFailed, match=r"^pretrain: ValueError: a GPU fell off; run again to go on$"):
        train(dying(tmp_path, 0, raises=True), ray_config)
    assert (tmp_path / "starts").read_text() == "1"
