"""How a training's batches are made: their size, shares, augmentation, and what is kept of pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from blip_bootstrap.errors import InputError
from blip_training.data.augment import CROP_AREA, Augment
from blip_training.feed.counts import Exchange
from blip_training.feed.kept_grids import KeptGrids
from blip_training.feed.stream import WINDOW_BYTES

CACHE_BYTES = 2 << 30


@dataclass(frozen=True)
class Feed:
    """How batches are made: `batch_size` images over all `world` workers and `accumulate` micro-batches.

    `crop_area` (0..1] is the least share of a picture's area that an augmenting crop keeps. `human_share` (0..1) is the
    share of each batch that comes from the human set; 0: in proportion to its captions. `stem` turns pixels into grids,
    which are cached in float16 in place of pixels: of the picture itself, or with augmentation of `augment_views` views
    of it. With 0 views every sample is a new view, and nothing can be cached. `kept_grids` has grids of whole pictures
    that other trainings have made. `window_bytes` are the encoded pictures among which samples are shuffled, over all
    workers. By `exchange` the workers share out the counting of the samples.
    """

    batch_size: int
    image_size: int
    seed: int
    augment: Augment = "none"
    augment_views: int = 0
    crop_area: float = CROP_AREA
    human_share: float = 0.0
    accumulate: int = 1
    rank: int = 0
    world: int = 1
    stem: Callable[[Tensor], Tensor] | None = None
    kept_grids: KeptGrids | None = None
    num_threads: int = 0
    cache_bytes: int = CACHE_BYTES
    window_bytes: int = WINDOW_BYTES
    exchange: Exchange | None = None

    @property
    def caches_grids(self) -> bool:
        """Whether batches hold grids of the stem in place of pixels."""
        return self.stem is not None and (self.augment == "none" or self.augment_views > 0)

    @property
    def own_slots(self) -> slice:
        """This worker's samples of a batch."""
        size = self.batch_size // self.world
        return slice(self.rank * size, (self.rank + 1) * size)

    def __post_init__(self) -> None:
        if self.batch_size % (self.world * self.accumulate):
            raise InputError(
                f"batch_size {self.batch_size} is not num_workers {self.world} x accumulate {self.accumulate} x n"
            )
