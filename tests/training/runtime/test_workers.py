"""Two workers over gloo: the losses and gradients of one with the same batch, and the same again after a kill."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from blip_bootstrap.config import HardTextsConfig, ItmConfig, PretrainConfig
from blip_bootstrap.errors import RunFailed
from blip_training.runtime.workers import Worker, gather_with_gradient, largest
from blip_training.train import pretrain as pretrain_module
from blip_training.train.checkpoint_files import checkpoints_in
from blip_training.train.finetune import finetune_captioner_model, finetune_filter_model
from blip_training.train.pretrain import pretrain_model
from tests.support.drawn import finetune_config, pretrain_config, read_log

STEPS = 4
pretraining: Any = pretrain_module  # tests replace what it imports


def shared_config(world: Path, negatives: str, **changes: object) -> PretrainConfig:
    """No dropout, so that two workers draw no other random numbers than one."""
    config = pretrain_config(world, steps=STEPS, **changes)
    return config.model_copy(update={"itm": config.itm.model_copy(update={"negatives": negatives})})


def restless_config(world: Path) -> PretrainConfig:
    """Everything random that a restart must repeat: dropout, crops, two micro-batches, negatives of all workers."""
    config = shared_config(world, "all_workers", accumulate=2, checkpoint_every_steps=2)
    text = config.model.text.model_copy(update={"dropout": 0.2})
    model = config.model.model_copy(update={"text": text})
    return config.model_copy(update={"model": model, "augment": "crop"})


def pretrain(world: Path, out: Path, config: PretrainConfig, progress: Any = None) -> dict[str, int | float]:
    out.mkdir(parents=True, exist_ok=True)
    return pretrain_model(out, world / "images", world / "pairs", world / "human", config, progress)


def train_all(world: Path, out: Path) -> None:
    """What a worker of the first test runs, and the single one that it is compared with."""
    for negatives in ("worker", "all_workers"):
        pretrain(world, out / negatives, shared_config(world, negatives))
    (out / "captioner").mkdir(exist_ok=True)
    config = finetune_config(steps=STEPS)
    finetune_captioner_model(out / "captioner", out / "all_workers", world / "human", config)
    (out / "filter").mkdir(exist_ok=True)
    hard = HardTextsConfig(swapped=0.4, captioner=0.8, near=0.6)
    config = config.model_copy(update={"hard_texts": hard, "itm": ItmConfig(negatives="all_workers")})
    inputs = out / "all_workers", world / "human", config
    finetune_filter_model(out / "filter", *inputs, captioner=out / "captioner")


def train_restless(world: Path, out: Path) -> None:
    pretrain(world, out / "straight", restless_config(world))


def train_killed(world: Path, out: Path) -> None:
    def progress(step: int, figures: object) -> None:
        if step == 3 and not (out / "died").exists():
            (out / "died").touch()
            os._exit(9)

    pretrain(world, out / "killed", restless_config(world), progress)


def check_gather(world: Path, out: Path) -> None:
    """Sum over workers of (rank + 1) * (sum of squares of all rows): the gradient of row x is 2 x (1 + 2)."""
    import torch.distributed as dist

    rank = dist.get_rank()
    own = torch.full((2, 3), float(rank + 1), requires_grad=True)
    (gather_with_gradient(own).square().sum() * (rank + 1)).backward()
    assert own.grad is not None
    assert torch.equal(own.grad, 6 * own.detach()), own.grad
    assert largest(3 + rank, own.device) == 4


def train_poisoned(world: Path, out: Path) -> None:
    """One worker's loss is NaN in the second step: both skip it, and hold the same weights at the end."""
    import torch.distributed as dist

    loss, count = pretraining.lm_loss, 0

    def poisoned(*inputs: Any, **more: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        return loss(*inputs, **more) * (float("nan") if count == 2 and dist.get_rank() == 1 else 1.0)

    pretraining.lm_loss = poisoned
    counts = pretrain(world, out / "poisoned", shared_config(world, "all_workers", checkpoint_every_steps=1))
    pretraining.lm_loss = loss
    assert counts["skipped_steps"] == 1
    assert counts["steps"] == STEPS


def train_diverged(world: Path, out: Path) -> None:
    """One worker's loss is NaN for good: both give up at the same step."""
    import torch.distributed as dist

    loss = pretraining.lm_loss
    by = float("nan") if dist.get_rank() == 1 else 1.0
    pretraining.lm_loss = lambda *inputs, **more: loss(*inputs, **more) * by
    with pytest.raises(RunFailed, match="2 steps in a row up to step 2 are not finite"):
        pretrain(world, out / "diverged", shared_config(world, "worker", max_skipped_steps=2))
    pretraining.lm_loss = loss


WORKER = """
import sys
from pathlib import Path
import torch, torch.distributed as dist
import tests.training.runtime.test_workers as test
torch.set_num_threads(1)
world, out, rank = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[4])
dist.init_process_group("gloo", init_method=f"file://{out}/{sys.argv[5]}", rank=rank, world_size=2)
for name in sys.argv[3].split():
    getattr(test, name)(world, out)
dist.destroy_process_group()
"""


def run_two(world: Path, out: Path, names: str, meeting: str) -> list[int]:
    """The exit statuses of two workers that run the functions `names`."""
    root = Path(__file__).parents[3]
    path = os.pathsep.join(str(root / part) for part in (".", "training", "pipelines"))
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(world), str(out), names, str(rank), meeting],
            env=os.environ | {"PYTHONPATH": path}, cwd=root, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [worker.communicate(timeout=600)[1] for worker in workers]  # a busy machine imports torch for minutes
    sys.stderr.writelines(one.decode() for one in said)
    return [worker.returncode for worker in workers]


@pytest.fixture(scope="module")
def two(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two workers made, undisturbed."""
    out = tmp_path_factory.mktemp("two")
    assert run_two(world, out, "check_gather train_all train_restless train_poisoned train_diverged", "first") == [0, 0]
    return out


@pytest.fixture(scope="module")
def one(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one")
    train_all(world, out)
    return out


@pytest.mark.parametrize("name", ["all_workers", "captioner", "filter"])
def test_two_workers_give_the_losses_and_gradients_of_one(one: Path, two: Path, name: str) -> None:
    for alone, shared in zip(read_log(one / name), read_log(two / name), strict=True):
        assert shared == pytest.approx(alone, rel=1e-3)


def test_with_a_workers_own_negatives_only_itm_is_another(one: Path, two: Path) -> None:
    alone, shared = (read_log(path / "worker")[0] for path in (one, two))
    for name in ("itc", "lm"):
        assert shared[name] == pytest.approx(alone[name], rel=1e-5)
    assert shared["itm"] != pytest.approx(alone["itm"], rel=1e-5)


def test_two_workers_that_die_give_the_same_losses_bit_for_bit(world: Path, two: Path) -> None:
    first, second = run_two(world, two, "train_killed", "second")
    assert first == 9
    assert second != 0
    assert checkpoints_in(two / "killed")
    assert run_two(world, two, "train_killed", "third") == [0, 0]
    assert read_log(two / "killed") == read_log(two / "straight")


def test_one_workers_nan_is_skipped_by_both(two: Path) -> None:
    log = read_log(two / "poisoned")
    assert [line.get("skipped_steps") for line in log] == [None, 1, 1, 1]
    assert all(math.isfinite(value) for line in log for value in line.values())
    assert log[0] == pytest.approx(read_log(two / "all_workers")[0])
    assert log[2]["lm"] != pytest.approx(read_log(two / "all_workers")[2]["lm"], rel=1e-6)


def test_alone_nothing_is_exchanged() -> None:
    values = torch.ones(2, requires_grad=True)
    assert gather_with_gradient(values) is values
    assert largest(3, values.device) == 3
    assert Worker(values.device).first
