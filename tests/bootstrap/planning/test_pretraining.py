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


@pytest.mark.parametrize(
    ("gpus", "accumulate", "told"),
    [
        (7, 1, "--gpus 7: cannot share out pretrain.optimizer.batch_size 2,880; 6 or 8 can, or set another batch_size"),
        (1_000_000, 1, "2,880; 2,880 can, or"),
        (2880, 2, "2,880 in 2 micro-batches; 1,440 can, or"),
    ],
)
def test_gpus_that_cannot_share_out_a_batch_are_told_with_the_numbers_that_can(
    gpus: int, accumulate: int, told: str
) -> None:
    with pytest.raises(InputError) as error:
        work_out(base(accumulate=accumulate), Cluster(gpus, "H100", 0.35, 400), PICTURES)
    assert told in str(error.value)


def test_a_second_stage_is_worked_out_with_its_own_pictures() -> None:
    small, large = (base().model_copy(update={"start_from": "previous", "image_size": one}) for one in (None, 448))
    found = [work_out(one, Cluster(8, "H100", 0.35, 400), PICTURES) for one in (small, large)]
    assert 3 < float(found[1]["gflop_per_sample"]) / float(found[0]["gflop_per_sample"]) < 5
    more = float(found[1]["checkpoint_bytes"]) - float(found[0]["checkpoint_bytes"])
    assert more == 4 * 4 * 768 * (28**2 - 14**2), "position embeddings: weights, moments and momentum encoder"


def test_no_figure_for_people_is_a_power_of_ten() -> None:
    for seconds, told in ((1.7453, "1,745 ms (1,745"), (0.2494, "249 ms (249"), (0.0577, "57.7 ms (57.7")):
        cluster = Cluster(1, "", 1, 400, samples_per_s=2880 / seconds)
        rows = {row["what"]: row["figure"] for row in for_people(work_out(base(), cluster, Pictures(10, 1.0, 1e-3)))}
        assert rows["a step"].startswith(told)


def test_people_read_units() -> None:
    rows = {row["what"]: row["figure"] for row in for_people(work_out(base(), Cluster(8, "H100", 0.35, 400), PICTURES))}
    assert rows["operations of a sample"] == "205 GFLOP"
    assert rows["pictures"] == "30 GB"
    assert rows["a checkpoint"] == "3.93 GB"


def test_the_command_measures_nothing() -> None:
    asked = ["plan", "--images", "1000", "--gpus", "8", "--samples-per-s", "50", "--json"]
    said = CliRunner().invoke(app, [*asked, "--set", "pretrain.optimizer.steps=10"], catch_exceptions=False)
    assert said.exit_code == 0
    assert json.loads(said.stdout)["samples_per_s"] == pytest.approx(400)
