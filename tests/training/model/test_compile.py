"""Training with compiled blocks: the eager losses, the same resume, and no trace of it in what is saved."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from blip_training.train.pretrain import pretrain_model
from tests.support.checkpoints import newest_state
from tests.support.drawn import pretrain_config, read_log

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
pytestmark = [
    pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler"),
    pytest.mark.filterwarnings("default"),  # torch's compiler warns of its own insides
]


class KilledError(Exception):
    """Stands for a kill between two steps."""


def train(world: Path, out: Path, compiled: bool, kill_at: int | None = None) -> dict[str, torch.Tensor]:
    """Train, resuming in `out`; the names and weights that were saved."""

    def progress(step: int, figures: Mapping[str, float]) -> None:
        if step == kill_at:
            raise KilledError

    out.mkdir(exist_ok=True)
    config = pretrain_config(world, steps=6, checkpoint_every_steps=3, compile=compiled)
    pretrain_model(out, world / "images", world / "pairs", world / "human", config, progress)
    with safe_open(out / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


@pytest.mark.long
def test_compiled_training_is_the_eager_one_and_resumes(world: Path, tmp_path: Path) -> None:
    eager = train(world, tmp_path / "eager", compiled=False)
    straight = train(world, tmp_path / "compiled", compiled=True)
    for found, expected in zip(read_log(tmp_path / "compiled"), read_log(tmp_path / "eager"), strict=True):
        assert found == pytest.approx(expected, rel=1e-3)
    assert list(straight) == list(eager)

    with pytest.raises(KilledError):
        train(world, tmp_path / "killed", compiled=True, kill_at=5)
    checkpoint = newest_state(tmp_path / "killed")
    names = [name for part in ("model", "momentum") for name in checkpoint[part]]
    assert names
    assert not [name for name in names if "_orig_mod" in name]
    resumed = train(world, tmp_path / "killed", compiled=True)
    assert read_log(tmp_path / "killed") == read_log(tmp_path / "compiled")
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
