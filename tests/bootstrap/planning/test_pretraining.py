"""A pre-training worked out on paper: plain arithmetic beside it, what bounds it, and the command."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.config import OptimizerConfig, PretrainConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.planning.pretraining import Cluster, Pictures, for_people, work_out

PICTURES = Pictures(1_000_000, 30_000, 4.0)


def base(**optimizer: object) -> PretrainConfig:
    given = {"batch_size": 2880, "steps": 1000} | optimizer
    return PretrainConfig(optimizer=OptimizerConfig.model_validate(given))


def test_compute_is_operations_by_the_share_of_the_peak() -> None:
    found = work_out(base(), Cluster(8, "A100", 0.5, 400), PICTURES)
    per_gpu = 0.5 * 312e12 / (float(found["gflop_per_sample"]) * 1e9)
    assert found["samples_per_s"] == pytest.approx(8 * per_gpu)
    assert found["step_s"] == pytest.approx(2880 / (8 * per_gpu))
    assert found["seconds"] == pytest.approx(1000 * 2880 / (8 * per_gpu))
    assert found["gpu_hours"] == pytest.approx(8 * float(found["seconds"]) / 3600)
    assert found["epochs"] == 2.88
    assert found["bound_by"] == "compute"


def test_a_measured_rate_counts_in_place_of_the_gpu() -> None:
    found = work_out(base(), Cluster(8, "no such", 0.5, 400, samples_per_s=100.0), PICTURES)
    assert found["samples_per_s"] == pytest.approx(800)
    assert found["read_bytes_per_s"] == pytest.approx(800 * 30_000)
    assert found["decode_cores"] == pytest.approx(800 * 0.004)


def test_gradients_go_twice_over_the_slowest_link() -> None:
    found = work_out(base(), Cluster(64, "H100", 0.35, 400), PICTURES)
    carried = 2 * 4 * 252_441_919 * 63 / 64  # the paper's 252 M weights, and the heads of ITC and ITM
    assert found["exchanged_bytes"] == pytest.approx(carried)
    assert found["exchange_s"] == pytest.approx(carried / 50e9)
    assert found["bound_by"] == "exchange of gradients"
    assert work_out(base(), Cluster(64, "H100", 0.35, 3200), PICTURES)["bound_by"] == "compute"


def test_slow_decoding_bounds() -> None:
    found = work_out(base(), Cluster(8, "H100", 0.35, 400), Pictures(10, 1.0, 40.0))
    assert found["bound_by"] == "CPU decode"
    assert found["step_s"] == pytest.approx(2880 * 0.04 / (8 * 12))


def test_a_checkpoint_has_moments_momentum_encoder_queue_and_running_mean() -> None:
    plain, mean = (
        work_out(base(ema=ema), Cluster(1, "H100", 0.35, 400), PICTURES)["checkpoint_bytes"] for ema in (0.0, 0.9999)
    )
    assert plain == 4 * (3 * 252_441_919 + 195_084_032 + 2 * 57_600 * 256)
    assert mean == pytest.approx(float(plain) + 4 * 252_441_919)


def test_an_unknown_gpu_is_one_line() -> None:
    with pytest.raises(InputError, match=r"--gpu GTX 9: its peak is not known; one of .*H100.*, or --samples-per-s"):
        work_out(base(), Cluster(1, "GTX 9", 0.35, 400), PICTURES)


def test_people_read_units() -> None:
    rows = {row["what"]: row["figure"] for row in for_people(work_out(base(), Cluster(8, "H100", 0.35, 400), PICTURES))}
    assert rows["operations of a sample"] == "210 GFLOP"
    assert rows["pictures"] == "30 GB"
    assert rows["a checkpoint"] == "3.93 GB"


def test_the_command_measures_nothing() -> None:
    asked = ["plan", "--images", "1000", "--gpus", "8", "--samples-per-s", "50", "--json"]
    said = CliRunner().invoke(app, [*asked, "--set", "pretrain.optimizer.steps=10"], catch_exceptions=False)
    assert said.exit_code == 0
    assert json.loads(said.stdout)["samples_per_s"] == pytest.approx(400)
