"""Our pre-training step against the same step written with transformers' modules: losses, gradients, momentum."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from blip_bootstrap.config import ItcConfig, ItmConfig, ModelConfig
from blip_training.model.med import Med
from blip_training.objective.contrast import Contrast
from blip_training.objective.losses import lm_loss
from blip_training.objective.micro_batches import MicroBatch
from blip_training.runtime.workers import Worker
from tests.support.reference_step import ALPHA, MOMENTUM, Inputs, Reference

TINY = ModelConfig.model_validate(
    {
        "vision": {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "heads": 4},
        "text": {"width": 32, "depth": 2, "heads": 4, "intermediate": 64, "dropout": 0},
        "embed_dim": 16,
    }
)
NUM_TOKENS = 60


def batch_of(size: int) -> MicroBatch:
    generator = torch.Generator().manual_seed(size)
    pixels = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=generator)
    ids = torch.randint(5, NUM_TOKENS - 2, (size, 9), generator=generator)
    mask = (torch.arange(9) < torch.randint(4, 10, (size, 1), generator=generator)).long()
    return MicroBatch(0, pixels, torch.arange(size), ids * mask, mask, torch.ones(()))


def both(size: int) -> tuple[Med, Contrast, Reference, MicroBatch]:
    torch.manual_seed(1)
    med = Med(TINY, NUM_TOKENS).train()
    contrast = Contrast(med, ItcConfig(queue_size=8, momentum=MOMENTUM), ItmConfig(), Worker(torch.device("cpu")))
    queue = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=-1)
    contrast.queue.push(queue[0], queue[1], *torch.arange(100, 108).expand(2, -1))
    reference = Reference(TINY, NUM_TOKENS, (queue[0].clone(), queue[1].clone())).train()
    reference.load(med)
    return med, contrast, reference, batch_of(size)


def our_losses(med: Med, contrast: Contrast, batch: MicroBatch) -> dict[str, Tensor]:
    features = contrast.features([batch])
    states = med.encode_image(batch.images)
    itc = contrast.itc(features, batch, states, ALPHA)
    itm = contrast.itm(features, batch, states, itc, torch.Generator().manual_seed(0))
    return {"itc": itc.loss, "itm": itm, "lm": lm_loss(med, states, batch.ids, batch.mask)}


def theirs(med: Med, batch: MicroBatch) -> Inputs:
    return Inputs(med.vision.stem.normalise(batch.images), batch.ids, batch.mask)  # type: ignore[operator]


@pytest.mark.parametrize("size", [2, 5])
def test_losses_are_the_references(size: int) -> None:
    """Of two pairs each has one possible negative, so ITM is compared there; of five the draws differ."""
    med, contrast, reference, batch = both(size)
    ours, expected = our_losses(med, contrast, batch), reference.losses(theirs(med, batch))
    for name in ("itc", "itm", "lm") if size == 2 else ("itc", "lm"):
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-5, atol=1e-6)


def test_gradients_and_a_step_of_the_momentum_towers_are_the_references() -> None:
    med, contrast, reference, batch = both(2)
    torch.stack(list(our_losses(med, contrast, batch).values())).sum().backward()
    torch.stack(list(reference.losses(theirs(med, batch)).values())).sum().backward()
    ours, expected = ([p.grad for p in model.parameters()] for model in (med, reference))
    norms = [torch.nn.utils.get_total_norm([g for g in one if g is not None]) for one in (ours, expected)]
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-5, atol=1e-6)
    own = med.get_parameter("vision.blocks.0.fc1.weight")
    torch.testing.assert_close(own.grad, first_mlp(reference).grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(med.temperature.grad, reference.temperature.grad, rtol=1e-4, atol=1e-6)


def first_mlp(reference: Reference) -> torch.nn.Parameter:
    return reference.vision_model.get_parameter("encoder.layers.0.mlp.fc1.weight")


def test_a_step_of_the_reference_moves_its_weights_and_slowly_its_momentum_towers() -> None:
    med, _, reference, batch = both(2)
    before = first_mlp(reference).detach().clone()
    losses = reference.train_step(theirs(med, batch))
    assert set(losses) == {"itc", "itm", "lm"}
    after, slow = first_mlp(reference).detach(), reference.slow[0].encoder.layers[0].mlp.fc1.weight
    assert not torch.equal(before, after)
    torch.testing.assert_close(slow, before * MOMENTUM + after * (1 - MOMENTUM))


def test_the_bench_measures_both_steps(tmp_path: Path) -> None:
    from tests.bench.training_step import measure

    args = argparse.Namespace(size="tiny", batch=3, rounds=1, bf16=True)
    found = measure(args, tmp_path)
    assert found["ratio_fp32"] == pytest.approx(found["samples_per_s_fp32"] / found["samples_per_s_reference"])
    assert 0 < found["gemm_share_fp32"] < 1
    assert found["ratio_bf16"] > 0


def onednn_flops(x: torch.Size, weight: torch.Size, *more: object, out_shape: torch.Size) -> int:
    """Of the product that torch's counter does not know: by the shapes of its arguments."""
    return 2 * x.numel() * weight[0]


def test_useful_operations_are_no_more_than_those_that_our_step_does(tmp_path: Path) -> None:
    """Without padding the count is the step's own, but for ITM and LM each having the images' keys and values."""
    from tests.bench.training_step import our_step, useful_flops

    batch = batch_of(4)
    whole = dataclasses.replace(batch, mask=torch.ones_like(batch.mask), ids=batch.ids.clamp(min=5))
    queue = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=-1)
    step = our_step(TINY, whole, queue, "float32", tmp_path)
    onednn = {torch.ops.mkldnn._linear_pointwise: onednn_flops}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=onednn) as counter:
        step()
    useful = useful_flops(TINY, whole)
    assert 0.85 * counter.get_total_flops() < useful <= counter.get_total_flops()
