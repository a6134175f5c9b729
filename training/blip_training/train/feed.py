"""The feed of a training: how a worker's batches are made for a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from blip_bootstrap.config import OptimizerConfig
from blip_bootstrap.machine import num_cores
from blip_training.data.augment import CROP_AREA, Augment
from blip_training.feed.feed import Feed
from blip_training.feed.kept_grids import KeptGrids
from blip_training.model.efficientnet import LITE_CHANNELS
from blip_training.model.med import Med
from blip_training.runtime.workers import Worker

CPU_GRIDS_AT_ONCE, GRIDS_AT_ONCE = 16, 64
"""Pictures that a frozen stem computes at a time, on a CPU and elsewhere: 256 pictures of 256 px at once take 7 GB of
activations."""


def in_equal_parts(compute: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Tensor:
    """Apply `compute` to `rows`, `size` at a time, the last ones filled up with zeros.

    A cache misses another number of pictures at every step, and a CPU's convolutions give 7 pictures other last bits
    than 16: a resumed run, whose cache is empty, would differ. A GPU plans its convolutions anew for each size.
    """
    filled = F.pad(rows, (0,) * (2 * rows.ndim - 1) + (-len(rows) % size,))
    return torch.cat([compute(filled[at : at + size]) for at in range(0, len(filled), size)])[: len(rows)]


def exchanged(said: Any) -> list[Any]:
    """What each worker says, in the order of their ranks; all workers call this."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, said)
    return found


def feed_of(
    med: Med,
    config: OptimizerConfig,
    worker: Worker,
    augment: Augment,
    human_share: float = 0.0,
    augment_views: int = 0,
    crop_area: float = CROP_AREA,
) -> Feed:
    """The feed of this worker's batches for `med`; on a GPU pictures are decoded by threads in the background."""

    def grids(pixels: Tensor) -> Tensor:
        at_once = CPU_GRIDS_AT_ONCE if med.device.type == "cpu" else GRIDS_AT_ONCE
        return in_equal_parts(med.vision.still_grid, pixels.to(med.device), at_once)

    kept: KeptGrids | None = None
    if config.grids and augment == "none" and med.vision.has_frozen_stem and med.vision.top is None:
        kind = f"{med.config.vision.kind}-{med.config.vision.image_size}px-{med.device.type}"
        kept = KeptGrids(config.grids, kind, (med.vision.num_patches, LITE_CHANNELS))
    return Feed(
        batch_size=config.batch_size,
        image_size=med.config.vision.image_size,
        seed=config.seed,
        augment=augment,
        augment_views=augment_views,
        crop_area=crop_area,
        human_share=human_share,
        accumulate=config.accumulate,
        rank=worker.rank,
        world=worker.world,
        stem=grids if med.vision.has_frozen_stem else None,
        kept_grids=kept,
        num_threads=min(8, num_cores()) if worker.device.type == "cuda" else 0,
        exchange=exchanged if worker.world > 1 else None,
    )
