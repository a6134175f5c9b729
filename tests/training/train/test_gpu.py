"""On a GPU: training steps give what they give on the CPU, in float32 and, roughly, in bfloat16."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from blip_training.train.finetune import finetune_captioner_model
from blip_training.train.pretrain import pretrain_model
from tests.support.drawn import finetune_config, pretrain_config, read_log

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-3), ("bfloat16", 3e-2)])
STEPS = 4


def pretrained(world: Path, out: Path, **changes: object) -> Path:
    out.mkdir()
    config = pretrain_config(world, steps=STEPS, **changes)
    pretrain_model(out, world / "images", world / "pairs", world / "human", config)
    return out


@DTYPES
def test_a_step_of_pretraining(world: Path, tmp_path: Path, dtype: str, tolerance: float) -> None:
    """ITM's negatives are drawn on the device, so ITM and what follows its gradient are others than on the CPU."""
    cpu = pretrained(world, tmp_path / "cpu")
    gpu = pretrained(world, tmp_path / "gpu", device="cuda", dtype=dtype)
    first, there = read_log(cpu)[0], read_log(gpu)
    for name in ("itc", "lm"):
        assert there[0][name] == pytest.approx(first[name], rel=tolerance)
    assert len(there) == STEPS
    assert all(math.isfinite(value) for line in there for value in line.values())
    assert [line["alpha"] for line in there] == [line["alpha"] for line in read_log(cpu)]


@DTYPES
def test_steps_of_the_captioner(world: Path, tmp_path: Path, dtype: str, tolerance: float) -> None:
    """LM alone draws nothing: every step is the same, the weights' updates and the schedule in it."""
    start = pretrained(world, tmp_path / "start")
    logs = []
    for device, kind in (("cpu", "float32"), ("cuda", dtype)):
        out = tmp_path / device
        out.mkdir()
        config = finetune_config(steps=STEPS, device=device, dtype=kind)
        finetune_captioner_model(out, start, world / "human", config)
        logs.append([line["loss"] for line in read_log(out)])
    assert len(logs[1]) == STEPS
    assert logs[1] == pytest.approx(logs[0], rel=tolerance)
