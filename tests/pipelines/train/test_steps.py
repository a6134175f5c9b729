"""The training steps on a real Ray: as tasks and as a TorchTrainer, with workers that die and inputs that are wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from blip_bootstrap.config import EvaluateConfig, RayConfig, TrainControlsConfig
from blip_bootstrap.errors import ConfigError, InputError
from blip_bootstrap.storage.parquet import parquet_files
from blip_pipelines.train.control_pairs import write_arm_pairs
from blip_pipelines.train.runner import Training, train
from blip_pipelines.train.steps import evaluate, finetune_captioner, pretrain, train_controls
from tests.support.drawn import finetune_config, pretrain_config, read_log, write_world

pytestmark = pytest.mark.ray
EVALUATE = EvaluateConfig(device="cpu", limit=6)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def pretrain_into(out: Path, world: Path, ray: RayConfig, **changes: object) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    config = pretrain_config(world, **{"steps": 4, **changes})
    return pretrain(out, world / "images", world / "pairs", world / "human", config=config, ray=ray)


def test_the_steps_of_a_round(
    world: Path, tmp_path: Path, ray_config: RayConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    counts = pretrain_into(tmp_path / "model", world, ray_config)
    assert (counts["steps"], counts["human_captions"]) == (4, 40)
    assert "pretrain  4/4 steps" in capfd.readouterr().err
    for name in ("captioner", "evaluation"):
        (tmp_path / name).mkdir()
    tuned = finetune_captioner(
        tmp_path / "captioner", tmp_path / "model", world / "human", config=finetune_config(steps=2), ray=ray_config
    )
    assert tuned["steps"] == 2
    held_out, out = world / "held_out", tmp_path / "evaluation"
    figures = evaluate(out, tmp_path / "model", held_out, config=EVALUATE, ray=ray_config)
    assert {"cider", "tr1", "ir1", "itm_auc"} <= set(figures)
    assert json.loads((out / "metrics.json").read_text()).items() >= figures.items()


def test_a_killed_worker_is_started_again_and_goes_on(world: Path, tmp_path: Path, ray_config: RayConfig) -> None:
    pretrain_into(tmp_path / "straight", world, ray_config, checkpoint_every_steps=2)
    out = tmp_path / "killed"
    out.mkdir()
    config = pretrain_config(world, steps=4, checkpoint_every_steps=2)

    def die_once() -> dict[str, Any]:
        from blip_training.train.pretrain import pretrain_model

        def progress(step: int, figures: object) -> None:
            if step == 3 and not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)

        return dict(
            pretrain_model(out, world / "images", world / "pairs", world / "human", config, progress),
            resumed=(tmp_path / "died").exists(),
        )

    counts = train(Training("pretrain", out, 4, die_once, threads=1, device="cpu"), ray_config)
    assert counts["resumed"]
    assert read_log(out) == read_log(tmp_path / "straight")


def train_two(out: Path, world: Path, ray: RayConfig, kill: bool) -> None:
    """Four steps by two workers of a TorchTrainer, noted in `started`; with `kill` the second dies at step 3."""
    started = out.parent / "started"
    for folder in (out, started):
        folder.mkdir(parents=True)
    config = pretrain_config(world, steps=4, checkpoint_every_steps=2)

    def call() -> dict[str, Any]:
        import torch.distributed as dist

        from blip_training.train.pretrain import pretrain_model

        (started / f"{dist.get_rank()}-{os.getpid()}").touch()

        def progress(step: int, figures: object) -> None:
            if kill and step == 3 and not (out.parent / "killed").exists():
                (victim,) = started.glob("1-*")
                (out.parent / "killed").touch()
                os.kill(int(victim.name.rpartition("-")[2]), signal.SIGKILL)

        return dict(pretrain_model(out, world / "images", world / "pairs", world / "human", config, progress))

    job = Training("pretrain", out, 4, call, num_workers=2, threads=1, device="cpu")
    assert train(job, ray)["steps"] == 4


@pytest.fixture(scope="module")
def straight(world: Path, tmp_path_factory: pytest.TempPathFactory, ray_config: RayConfig) -> Path:
    """The model of two workers of which none dies."""
    out, before = tmp_path_factory.mktemp("straight") / "model", signal.getsignal(signal.SIGINT)
    train_two(out, world, ray_config, kill=False)
    assert signal.getsignal(signal.SIGINT) is before, "Ctrl-C is Ray Train's still"
    return out


def test_two_workers_of_a_torch_trainer_share_each_batch(
    world: Path, tmp_path: Path, straight: Path, ray_config: RayConfig
) -> None:
    assert [line["step"] for line in read_log(straight)] == [1, 2, 3, 4]
    assert [path.name for path in straight.iterdir() if path.name.startswith(".")] == [".checkpoints"]
    pretrain_into(tmp_path / "one", world, ray_config, steps=4)
    one, two = (read_log(path, "itc")[0]["itc"] for path in (tmp_path / "one", straight))
    assert two == pytest.approx(one, rel=1e-5)


INTERRUPTED = """
import sys, time
from pathlib import Path
from blip_bootstrap.config import RayConfig
from blip_pipelines.train.runner import Training, train

out = Path(sys.argv[1])

def call():
    (out / "working").touch()
    time.sleep(60)
    return {}

try:
    job = Training("pretrain", out, 1, call, num_workers=2, threads=1, device="cpu")
    train(job, RayConfig(object_store_bytes=100_000_000))
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_an_interrupt_ends_ray_train_and_is_seen(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", INTERRUPTED, str(tmp_path)], stderr=subprocess.DEVNULL
    )
    while not (tmp_path / "working").exists():
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=180) == 130


def test_ray_train_replaces_a_killed_worker_and_goes_on_bit_for_bit(
    world: Path, tmp_path: Path, straight: Path, ray_config: RayConfig
) -> None:
    """kill -9 of the second of two workers at step 3, after the checkpoint of step 2."""
    killed = tmp_path / "model"
    train_two(killed, world, ray_config, kill=True)
    assert [len(list((out.parent / "started").iterdir())) for out in (straight, killed)] == [2, 4]
    assert read_log(killed) == read_log(straight)
    weights = [(out / "model.safetensors").read_bytes() for out in (straight, killed)]
    assert weights[0] == weights[1]


def test_a_users_mistake_in_a_worker_is_one_line_here(world: Path, tmp_path: Path, ray_config: RayConfig) -> None:
    with pytest.raises(InputError, match="no training pairs"):
        pretrain(tmp_path, None, None, None, config=pretrain_config(world), ray=ray_config)


def test_one_task_is_not_several_workers(world: Path, tmp_path: Path, ray_config: RayConfig) -> None:
    config = pretrain_config(world).model_copy(update={"num_workers": 2})
    with pytest.raises(ConfigError, match="task runs one worker, num_workers is 2"):
        pretrain(tmp_path, None, None, None, config=config, ray=ray_config.model_copy(update={"trainer": "task"}))


def test_more_workers_than_this_machine_holds_are_refused(world: Path, tmp_path: Path, ray_config: RayConfig) -> None:
    config = pretrain_config(world, batch_size=64).model_copy(update={"num_workers": 64})
    told = r"^pretrain: num_workers is 64, a CPU each, and Ray has \d+ here; lower it, or set ray.num_cpus to 64$"
    with pytest.raises(ConfigError, match=told):
        pretrain(tmp_path, None, None, None, config=config, ray=ray_config)


def test_one_worker_comes_to_the_same_weights_without_ray_in_a_task_and_in_ray_train(
    world: Path, tmp_path: Path, ray_config: RayConfig
) -> None:
    ways = {"none": {"address": "none"}, "task": {"trainer": "task"}, "ray_train": {"trainer": "ray_train"}}
    for name, changes in ways.items():
        pretrain_into(tmp_path / name, world, ray_config.model_copy(update=changes))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ways]
    assert weights[0] == weights[1] == weights[2]


def controls(world: Path, out: Path, ray: RayConfig, *arms: str) -> dict[str, Any]:
    config = TrainControlsConfig(
        arms=arms,
        num_parallel=2,
        pretrain=pretrain_config(world, steps=2),
        evaluate=EVALUATE,
    )
    pairs, human, held_out = world / "pairs", world / "human", world / "held_out"
    return train_controls(out, world / "images", pairs, pairs, human, held_out, config=config, ray=ray)


def test_arms_are_trained_and_measured_once(world: Path, tmp_path: Path, ray_config: RayConfig) -> None:
    counts = controls(world, tmp_path, ray_config, "human_only", "filter_only", "captioner_only")
    assert set(counts) == {
        f"{arm}_{key}" for arm in ("human_only", "filter_only", "captioner_only") for key in ("cider", "tr1", "ir1")
    }
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert controls(world, tmp_path, ray_config, "human_only", "filter_only", "captioner_only") == counts
    assert made == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    trained = {
        arm: json.loads((tmp_path / arm / "model" / "counts.json").read_text())["pairs"] for arm in counts_of(counts)
    }
    assert trained["human_only"] == 0 < trained["filter_only"] < trained["captioner_only"] == 120


def counts_of(counts: dict[str, Any]) -> set[str]:
    return {key.rsplit("_", 1)[0] for key in counts}


def test_arm_pairs_keep_every_row_and_say_why_not(world: Path, tmp_path: Path) -> None:
    write_arm_pairs(tmp_path, "filter_only", world / "pairs", world / "pairs", None)
    for file in parquet_files(world / "pairs"):
        before, after = pq.read_table(file).to_pylist(), pq.read_table(tmp_path / file.name).to_pylist()
        assert len(after) == len(before)
        for was, row in zip(before, after, strict=True):
            assert row["kept"] == (was["kept"] and row["source"] == "web")
            assert (row["reason"] is None) == row["kept"]


def test_an_arm_without_its_input_is_refused(world: Path, tmp_path: Path, ray_config: RayConfig) -> None:
    with pytest.raises(ConfigError, match="oracle needs pairs of true texts"):
        controls(world, tmp_path, ray_config, "oracle")
