"""Training batches from Parquet: web and human pairs mixed; a step's batch depends on the seed and the step alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from blip_bootstrap.errors import InputError
from blip_training.data.augment import CROP_AREA, Augment, augment_image, augment_view, names_a_side
from blip_training.data.decode import decode_image
from blip_training.data.kept_grids import KeptGrids
from blip_training.data.left_out import LeftOut
from blip_training.data.pixels import to_pixels
from blip_training.data.shards import Sample, Shard, Split, Stream, annotated_shards, web_shards

CACHE_BYTES = 2 << 30


class AnyBatch(Protocol):
    """A micro-batch of any training: tensors that can be moved to a device."""

    def to(self, device: torch.device) -> Self:
        """This batch with its tensors on `device`."""


BatchT = TypeVar("BatchT", bound=AnyBatch)

BatchT_co = TypeVar("BatchT_co", bound=AnyBatch, covariant=True)


class StepBatches(Protocol[BatchT_co]):
    """Training data: the micro-batches of any step."""

    num_samples: int
    feed: Feed

    def steps(self, start: int, stop: int) -> Iterator[Sequence[BatchT_co]]:
        """The micro-batches of each step `start` .. `stop` - 1."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch: uint8 pixels [B, 3, H, W] or a frozen stem's grids [B, P, C], B texts, and image ids [B]."""

    images: Tensor
    texts: list[str]
    ids: Tensor

    def to(self, device: torch.device) -> Batch:
        """This batch with its tensors on `device`."""
        return Batch(self.images.to(device, non_blocking=True), self.texts, self.ids.to(device, non_blocking=True))


@dataclass(frozen=True)
class Feed:
    """How batches are made: `batch_size` images over all `world` workers and `accumulate` micro-batches.

    `crop_area` (0..1] is the least share of a picture's area that an augmenting crop keeps. `human_share` (0..1) is the
    share of each batch that comes from the human set; 0: in proportion to its captions. `stem` turns pixels into grids,
    which are cached in float16 in place of pixels: of the picture itself, or with augmentation of `augment_views` views
    of it. With 0 views every sample is a new view, and nothing can be cached. `kept_grids` has grids of whole pictures
    that other trainings have made.
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

    @property
    def caches_grids(self) -> bool:
        """Whether batches hold grids of the stem in place of pixels."""
        return self.stem is not None and (self.augment == "none" or self.augment_views > 0)

    def __post_init__(self) -> None:
        if self.batch_size % (self.world * self.accumulate):
            raise InputError(
                f"batch_size {self.batch_size} is not num_workers {self.world} x accumulate {self.accumulate} x n"
            )


class TrainingData:
    """Web and human pairs as training samples, one for each pair of image and text.

    Image ids in the batches keep texts of one image from being each other's negatives. Raises InputError if there is no
    pair, or a picture cannot be decoded.
    """

    def __init__(self, web: Sequence[Shard], human: Sequence[Shard], feed: Feed) -> None:
        self.feed = feed
        self.web, self.human = Stream(web, 2 * feed.seed), Stream(human, 2 * feed.seed + 1)
        self.num_samples = self.web.num_samples + self.human.num_samples
        if not self.num_samples:
            left_out = sum(len(shards[0].left_out) for shards in (web, human) if shards)
            say = f"; {left_out} pictures that another set has too are left out (same_pictures.leave_out)"
            raise InputError(
                f"no training pairs in {_folders(web) or 'no web set'} and {_folders(human) or 'no human set'}"
                + (say if left_out else "")
            )
        self.human_share = self._share()
        self._cache = PictureCache(feed.cache_bytes)
        self._pool = ThreadPoolExecutor(feed.num_threads) if feed.num_threads else None

    def _share(self) -> float:
        """The share (0..1) of each batch that comes from the human set."""
        if not self.web.num_samples or not self.human.num_samples:
            return float(self.human.num_samples > 0)
        return self.feed.human_share or self.human.num_samples / self.num_samples

    def steps(self, start: int, stop: int) -> Iterator[list[Batch]]:
        """The micro-batches of each step; with threads the next step is decoded in the background."""
        if not self._pool:
            for step in range(start, stop):
                yield self.micro_batches(step)
            return
        with ThreadPoolExecutor(1) as ahead:
            pending: Future[list[Batch]] | None = None
            for step in range(start, stop):
                current = pending or ahead.submit(self.micro_batches, step)
                batches = current.result()
                pending = ahead.submit(self.micro_batches, step + 1) if step + 1 < stop else None
                yield batches

    def micro_batches(self, step: int) -> list[Batch]:
        """This worker's rows of step `step`, cut into `accumulate` batches; they depend on (seed, step) alone."""
        samples = self.samples(step)
        size = self.feed.batch_size // self.feed.world // self.feed.accumulate
        mine = samples[self.feed.rank * size * self.feed.accumulate :][: size * self.feed.accumulate]
        return [self._batch(mine[i : i + size]) for i in range(0, len(mine), size)]

    def samples(self, step: int) -> list[Sample]:
        """The `batch_size` samples of a step over all workers, web and human in random order."""
        size = self.feed.batch_size
        humans, humans_then = int(step * size * self.human_share), int((step + 1) * size * self.human_share)
        count = humans_then - humans
        both = [*self.web.samples(step * size - humans, size - count), *self.human.samples(humans, count)]
        return [both[i] for i in np.random.default_rng((self.feed.seed, step)).permutation(size)]

    def _batch(self, samples: list[Sample]) -> Batch:
        images = self._grids(samples) if self.feed.caches_grids else self._pixels(samples)
        ids = torch.tensor([sample.image_id for sample in samples])
        return Batch(images, [sample.text for sample in samples], ids)

    def _pixels(self, samples: list[Sample]) -> Tensor:
        make = self._squashed if self.feed.augment == "none" else self._augmented
        return torch.stack(self._mapped(make, samples))

    def _mapped(self, make: Callable[..., Tensor], *what: Sequence[Any]) -> list[Tensor]:
        return list(self._pool.map(make, *what) if self._pool else map(make, *what))

    def _squashed(self, sample: Sample) -> Tensor:
        if (kept := self._cache.get(sample)) is not None:
            return kept
        return self._cache.put(sample, to_pixels(decode_image(sample.encoded(), sample.where), self.feed.image_size))

    def _augmented(self, sample: Sample) -> Tensor:
        if (kept := self._cache.get(sample)) is None:
            decoded = decode_image(sample.encoded(), sample.where)
            kept = self._cache.put(sample, torch.from_numpy(np.array(decoded)))
        # A generator of the sample's own, so that its crop depends on no worker, order or restart.
        rng = random.Random(f"{self.feed.seed}/{sample.shard.name}/{sample.position}")
        size, kind, area = self.feed.image_size, self.feed.augment, self.feed.crop_area
        return to_pixels(augment_image(Image.fromarray(kept.numpy()), sample.text, size, kind, rng, area), size)

    def _grids(self, samples: list[Sample]) -> Tensor:
        """Grids of the frozen stem [B, P, C], each computed once while the cache has room."""
        assert self.feed.stem is not None
        views = [self._view_of(sample) for sample in samples]
        grids = [self._known_grid(sample, view) for sample, view in zip(samples, views, strict=True)]
        new = [at for at, grid in enumerate(grids) if grid is None]
        if new:
            pixels = torch.stack(self._mapped(self._seen_from, [samples[at] for at in new], [views[at] for at in new]))
            for at, grid in zip(new, self.feed.stem(pixels).half().cpu(), strict=True):
                grids[at] = self._cache.put(samples[at], grid.clone(), views[at])
                if self.feed.kept_grids:
                    self.feed.kept_grids.put(samples[at].encoded(), grid)
        return torch.stack([grid for grid in grids if grid is not None])

    def _known_grid(self, sample: Sample, view: int) -> Tensor | None:
        """The grid that memory holds, or the folder of grids."""
        found = self._cache.get(sample, view)
        if found is None and self.feed.kept_grids and (kept := self.feed.kept_grids.get(sample.encoded())) is not None:
            return self._cache.put(sample, kept, view)
        return found

    def _view_of(self, sample: Sample) -> int:
        """The number of the view that this sample shows; 0 without augmentation.

        A text that names a side gets an even number: views of odd numbers are mirrored.
        """
        if self.feed.augment == "none":
            return 0
        view = random.Random(self._name(sample, sample.position)).randrange(self.feed.augment_views)
        return view - view % 2 if names_a_side(sample.text) else view

    def _seen_from(self, sample: Sample, view: int) -> Tensor:
        """Pixels of a view of the sample's picture, which its texts share in all epochs."""
        image, size = decode_image(sample.encoded(), sample.where), self.feed.image_size
        if self.feed.augment != "none":
            rng = random.Random(self._name(sample, f"view {view}"))
            image = augment_view(image, view, size, self.feed.augment, rng, self.feed.crop_area)
        return to_pixels(image, size)

    def _name(self, sample: Sample, what: object) -> str:
        return f"{self.feed.seed}/{sample.shard.name}/{sample.row}/{what}"


class PictureCache:
    """A cache of decoded pictures or grids by image and view, which holds at most `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.size_bytes = limit_bytes, 0
        self._kept: dict[tuple[Path, int, int], Tensor] = {}

    def get(self, sample: Sample, view: int = 0) -> Tensor | None:
        """What the cache holds for the sample's image and view, or None."""
        return self._kept.get((sample.shard.images, sample.row, view))

    def put(self, sample: Sample, made: Tensor, view: int = 0) -> Tensor:
        """Keep `made` for the sample's image and view if there is room; return it."""
        if self.size_bytes + made.nbytes <= self.limit_bytes:
            self._kept[sample.shard.images, sample.row, view] = made
            self.size_bytes += made.nbytes
        return made


def open_training_data(
    images: Path | None, pairs: Path | None, human: Path | None, feed: Feed, split: Split = "all",
    left_out: LeftOut | None = None,
) -> TrainingData:  # fmt: skip
    """Web pairs (`images` joined with `pairs`, kept rows only) and `split` of the human set; either may be None.

    Raises InputError if there is no pair in either, or a pairs file has no image file.
    """
    left_out = left_out or LeftOut()
    web = web_shards(images, pairs, left_out.web) if images and pairs else []
    return TrainingData(web, annotated_shards(human, split, left_out.human) if human else [], feed)


def _folders(shards: Sequence[Shard]) -> str:
    return ", ".join(sorted({str((shard.pairs or shard.images).parent) for shard in shards}))
