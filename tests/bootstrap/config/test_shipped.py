"""Configurations that lie in configs/ can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from blip_bootstrap.config import load_config

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_can_be_read(path: Path) -> None:
    load_config(path)


def test_the_base_models_batch_is_shared_out_evenly() -> None:
    config = load_config(next(path for path in CONFIGS if path.stem == "blip_base_8x80gb"))
    for section in (config.pretrain, config.captioner, config.filter):
        assert section.optimizer.batch_size % section.num_workers == 0
    optimizer = config.pretrain.optimizer
    assert optimizer.steps % optimizer.decay_every_steps == 0
    assert config.pretrain.itc.alpha_ramp_steps == 2 * optimizer.decay_every_steps
