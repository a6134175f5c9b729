"""The counted operations of training steps, beside those that torch counts while it computes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from blip_bootstrap.config import ItcConfig, ItmConfig, ModelConfig
from blip_training.model.flops import Flops, captioning_flops, contrastive_flops
from blip_training.model.med import Med
from blip_training.objective.contrast import Contrast
from blip_training.objective.losses import lm_loss
from blip_training.objective.micro_batches import MicroBatch
from blip_training.runtime.gpus import PEAKS, peak_of
from blip_training.runtime.workers import Worker
from blip_training.train.contrastive_step import contrastive_step
from blip_training.train.run import Run, prepare
from tests.support.drawn import model_config, optimizer_config

NUM_TOKENS, ROWS, LENGTH, QUEUED = 50, 6, 9, 24
CPU = Worker(torch.device("cpu"))


def full_batch() -> MicroBatch:
    """Texts of one length, all different, so that nothing is padding."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (ROWS, 3, 32, 32), dtype=torch.uint8, generator=generator)
    ids = torch.randint(5, NUM_TOKENS - 2, (ROWS, LENGTH), generator=generator)
    return MicroBatch(0, pixels, torch.arange(ROWS), ids, torch.ones_like(ids), torch.ones(()))


def linear_of(shapes: Any, *arguments: Any, out_shape: Any = None, **options: Any) -> int:
    """oneDNN's product of states [B, P, I] and a weight [O, I], which torch's counter does not know."""
    (b, p, i), (o, _) = shapes, arguments[0]
    return int(2 * b * p * i * o)


def counted(work: Any) -> float:
    """What torch counts; its fused attention for the CPU is unknown to it, plain products are not."""
    known = {torch.ops.mkldnn._linear_pointwise: linear_of}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=known) as counter:
        work()
    return float(counter.get_total_flops())


def needed(flops: Flops) -> float:
    return float(flops.of(ROWS, ROWS * LENGTH, ROWS * LENGTH**2))


def config_of(world: Path, **changes: object) -> ModelConfig:
    return model_config(world).model_copy(update=changes)


@pytest.mark.parametrize("share", ["all_but_sa", "all", "all_but_ca", "none"])
@pytest.mark.parametrize("with_lm", [True, False])
def test_a_step_of_pretraining_and_of_the_filter(world: Path, tmp_path: Path, share: str, with_lm: bool) -> None:
    med = prepare(Med(config_of(world, share=share), NUM_TOKENS), optimizer_config())
    contrast = Contrast(med, ItcConfig(queue_size=QUEUED), ItmConfig(), CPU)
    run, batch = Run(tmp_path, med, optimizer_config(), CPU), full_batch()

    def lm_of(batch: MicroBatch, states: torch.Tensor, keys: Any) -> torch.Tensor:
        return lm_loss(med, states, batch.ids, batch.mask, keys=keys)

    def step() -> None:
        contrastive_step(run, contrast, [batch], 0.4, lm_of if with_lm else None)

    for filled in (0, ROWS):
        expected = needed(contrastive_flops(med.config, NUM_TOKENS, ROWS + filled, with_lm))
        assert counted(step) == pytest.approx(expected, rel=0.002)


def test_a_step_before_itm_joins(world: Path, tmp_path: Path) -> None:
    med = prepare(Med(config_of(world), NUM_TOKENS), optimizer_config())
    contrast = Contrast(med, ItcConfig(queue_size=0), ItmConfig(start_step=100), CPU)
    run, batch = Run(tmp_path, med, optimizer_config(), CPU), full_batch()
    expected = needed(contrastive_flops(med.config, NUM_TOKENS, ROWS, with_lm=False, with_itm=False))
    assert counted(lambda: contrastive_step(run, contrast, [batch], 0.4)) == pytest.approx(expected, rel=0.002)


@pytest.mark.parametrize("prompt_tokens", [0, 3])
def test_a_step_of_the_captioner(world: Path, prompt_tokens: int) -> None:
    med, batch = Med(config_of(world), NUM_TOKENS), full_batch()

    def step() -> None:
        lm_loss(med, med.encode_image(batch.images), batch.ids, batch.mask, prompt_tokens).backward()

    expected = needed(captioning_flops(med.config, NUM_TOKENS, prompt_tokens))
    assert counted(step) == pytest.approx(expected, rel=0.002)


def test_padding_is_not_counted() -> None:
    flops = Flops(1.0, 10.0, 100.0)
    assert flops.of(2, 3 + 5, 9 + 25) == 2 + 80 + 3400


def test_operations_of_the_papers_base_model() -> None:
    """ViT-B/16 at 224 px: 17.6 G multiplications and additions of an image, by which most of a step can be told."""
    base = ModelConfig()
    small = replace_depth(base)
    vision = contrastive_flops(base, 30_524, 0).image - contrastive_flops(small, 30_524, 0).image
    block = 2 * 197 * 9 * 768**2 + 4 * 197**2 * 768  # the momentum encoder's last one is not whole
    assert (vision + block) / 4 / 2 == pytest.approx(17.4e9, rel=0.01)  # one forward pass with gradients, one without


def replace_depth(config: ModelConfig) -> ModelConfig:
    return config.model_copy(update={"vision": config.vision.model_copy(update={"depth": 0})})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H100 PCIe", "H100 PCIe"), ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA A10G", "A10G"), ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA L40S", "L40S"), ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("AMD Instinct MI300X", "MI300X"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
    ],
)  # fmt: skip
def test_gpus_are_known_by_the_names_that_drivers_give(name: str, kind: str) -> None:
    assert peak_of(name) == PEAKS[kind]


def test_another_gpu_has_no_peak() -> None:
    assert peak_of("NVIDIA GeForce GTX 1080") is None
    assert replace(Flops(1.0), token=2.0).of(1, 1, 0) == 3.0
