"""The running mean of the weights beside reference mathematics; which weights are validated and saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from blip_training.objective.running_mean import RunningMean
from blip_training.runtime.workers import Worker
from blip_training.train.pretrain import pretrain_model
from blip_training.train.run import Run
from tests.support.drawn import optimizer_config, pretrain_config

CPU = Worker(torch.device("cpu"))


def test_the_mean_is_the_recurrence_with_a_share_that_rises() -> None:
    module, share = nn.Linear(2, 1, bias=False), 0.9
    mean = RunningMean(module, share)
    expected = module.weight.detach().clone().double()
    for number in range(1, 120):
        with torch.no_grad():
            module.weight.copy_(torch.tensor([[float(number), 1.0 / number]]))
        mean.follow()
        kept = min(share, (1 + number) / (10 + number))
        expected = kept * expected + (1 - kept) * module.weight.double()
    with mean.in_place():
        torch.testing.assert_close(module.weight.double(), expected, rtol=1e-5, atol=1e-6)
    assert module.weight[0, 0] == 119.0


def test_weights_that_are_not_trained_have_none() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    assert [name for name, _ in RunningMean(module, 0.5).named_buffers()] == ["1/weight", "1/bias"]


def test_weights_come_back_after_an_error() -> None:
    module = nn.Linear(1, 1)
    mean, before = RunningMean(module, 0.5), module.weight.item()
    with torch.no_grad():
        module.weight.add_(1.0)

    def fail() -> None:
        with mean.in_place():
            assert module.weight.item() == before
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert module.weight.item() == pytest.approx(before + 1.0)


def test_training_is_the_same_and_the_saved_model_is_the_mean(world: Path, tmp_path: Path) -> None:
    weights: dict[str, dict[str, torch.Tensor]] = {}
    logs: dict[str, list[str]] = {}
    for name, ema in (("last", 0.0), ("mean", 0.5)):
        out = tmp_path / name
        out.mkdir()
        config = pretrain_config(world, steps=4, ema=ema)
        pretrain_model(out, world / "images", world / "pairs", None, config)
        weights[name] = load_file(out / "model.safetensors")
        logs[name] = [line.split('"samples')[0] for line in (out / "metrics.jsonl").read_text().split("\n")]
    assert logs["last"] == logs["mean"]
    apart = [key for key, weight in weights["last"].items() if not torch.equal(weight, weights["mean"][key])]
    assert len(apart) > 0.9 * len(weights["last"])


def steps_of(out: Path, stop: int) -> tuple[nn.Linear, Run]:
    """Trains a layer up to step `stop` of 12, with a checkpoint every 4 steps."""
    torch.manual_seed(0)
    module = nn.Linear(3, 1)
    run = Run(out, module, optimizer_config(steps=12, ema=0.8, checkpoint_every_steps=4, warmup_steps=0), CPU)
    for step in run.count():
        if step == stop:
            break
        run.backward({"loss": (module(torch.randn(4, 3)) - 1).square().mean()})
        run.update()
    return module, run


def test_a_resumed_training_publishes_the_same_mean(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, run = steps_of(tmp_path / "whole", 99)
    steps_of(tmp_path / "killed", 10)
    resumed, again = steps_of(tmp_path / "killed", 99)
    last = whole.weight.clone()
    with run.published(), again.published():
        assert torch.equal(whole.weight, resumed.weight)
        assert not torch.equal(whole.weight, last)


def test_a_skipped_step_leaves_the_mean(tmp_path: Path) -> None:
    module = nn.Linear(1, 1)
    run = Run(tmp_path, module, optimizer_config(steps=3, ema=0.8), CPU)
    for step in run.count():
        run.backward({"loss": module(torch.ones(1, 1)).sum() * (float("nan") if step == 1 else 1.0)})
        run.update()
    assert run.mean is not None
    assert run.mean.num_steps == 2
