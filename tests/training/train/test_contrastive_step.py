"""One step on ITC + ITM (+ LM): what moves with it, what a skipped one leaves, and that features are a mere value."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from blip_bootstrap.config import ItcConfig, ItmConfig
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.cross_attention import KeyValue
from blip_training.model.med import Med
from blip_training.objective.contrast import Contrast
from blip_training.objective.losses import lm_loss
from blip_training.objective.micro_batches import MicroBatch, micro_batches_of
from blip_training.runtime.workers import Worker
from blip_training.train.contrastive_step import contrastive_step
from blip_training.train.run import Run
from tests.support.drawn import model_config, optimizer_config
from tests.support.tiny_batch import cut, whole_batch

CPU = Worker(torch.device("cpu"))


@pytest.fixture
def tokenizer(world: Path) -> Tokenizer:
    return Tokenizer.load(str(world / "vocab.txt"))


@pytest.fixture
def contrast(world: Path, tokenizer: Tokenizer) -> Contrast:
    torch.manual_seed(0)
    med = Med(model_config(world), tokenizer.num_tokens)
    return Contrast(med, ItcConfig(queue_size=12), ItmConfig(start_step=1), CPU)


def batches_of(contrast: Contrast, tokenizer: Tokenizer, seed: int, count: int = 2) -> list[MicroBatch]:
    return micro_batches_of(contrast.med, tokenizer, cut(whole_batch(seed), count), CPU)


def state_of(contrast: Contrast) -> list[Tensor]:
    modules = contrast.med, contrast.momentum, contrast.queue
    return [value.clone() for one in modules for value in one.state_dict().values() if isinstance(value, Tensor)]


@pytest.mark.parametrize("with_lm", [False, True])
def test_a_skipped_step_leaves_weights_momentum_and_queue_and_others_move_them(
    contrast: Contrast, tokenizer: Tokenizer, tmp_path: Path, with_lm: bool
) -> None:
    def lm_of(batch: MicroBatch, states: Tensor, keys: list[KeyValue] | None) -> Tensor:
        return lm_loss(contrast.med, states, batch.ids, batch.mask, keys=keys)

    run, taken = Run(tmp_path, contrast.med, optimizer_config(steps=3), CPU), []
    for step in run.count():
        before = state_of(contrast)
        alpha = math.nan if step == 1 else 0.4
        batches = batches_of(contrast, tokenizer, step)
        taken.append(contrastive_step(run, contrast, batches, alpha, lm_of if with_lm else None))
        unchanged = [torch.equal(one, other) for one, other in zip(before, state_of(contrast), strict=True)]
        assert all(unchanged) == (step == 1)
        assert contrast.queue.filled == (8, 8, 12)[step]
    assert taken == [True, False, True]
    names = {"itc", "itm", "lm"} if with_lm else {"itc", "itm"}
    assert {"itc", "itm", "lm"} & run.log.last.keys() == names


def test_the_losses_of_a_step_follow_from_its_features_alone(contrast: Contrast, tokenizer: Tokenizer) -> None:
    """Another step's features made in between change nothing, nor does the order of the micro-batches."""
    batches = batches_of(contrast, tokenizer, 0)
    features = contrast.features(batches)

    def losses() -> list[Tensor]:
        found = []
        for batch in batches:
            states = contrast.med.encode_image(batch.images)
            itc = contrast.itc(features, batch, states, 0.4)
            found += [itc.loss, contrast.itm(features, batch, states, itc, torch.Generator().manual_seed(0))]
        return found

    first = losses()
    contrast.features(batches_of(contrast, tokenizer, 1, count=4))
    batches.reverse()
    second = losses()
    assert first == [*second[2:], *second[:2]]
