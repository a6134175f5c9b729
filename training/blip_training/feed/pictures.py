"""The pictures of a batch as the model gets them: decoded and augmented, or as grids of a frozen stem; with a cache."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from blip_training.data.augment import augment_image, augment_view, names_a_side
from blip_training.data.decode import decode_image
from blip_training.data.pixels import to_pixels
from blip_training.feed.feed import Feed
from blip_training.feed.row_groups import Sample


class Pictures:
    """Makes the images of samples by a feed's settings; each by (seed, epoch, picture and text) alone."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self._cache = PictureCache(feed.cache_bytes)
        self._pool = ThreadPoolExecutor(feed.num_threads) if feed.num_threads else None

    def of(self, samples: Sequence[Sample]) -> Tensor:
        """The samples' images: uint8 pixels [B, 3, H, W], or a frozen stem's grids [B, P, C].

        Raises InputError where a picture cannot be decoded.
        """
        return self._grids(samples) if self.feed.caches_grids else self._pixels(samples)

    def _pixels(self, samples: Sequence[Sample]) -> Tensor:
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
        rng = random.Random(self._name(sample, f"{sample.epoch}/{sample.text}"))
        size, kind, area = self.feed.image_size, self.feed.augment, self.feed.crop_area
        return to_pixels(augment_image(Image.fromarray(kept.numpy()), sample.text, size, kind, rng, area), size)

    def _grids(self, samples: Sequence[Sample]) -> Tensor:
        """Grids of the frozen stem [B, P, C], each computed once while the cache has room."""
        assert self.feed.stem is not None
        views = [self.view_of(sample) for sample in samples]
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

    def view_of(self, sample: Sample) -> int:
        """The number of the view that a sample shows; 0 without augmentation.

        A text that names a side gets an even number: views of odd numbers are mirrored.
        """
        if self.feed.augment == "none":
            return 0
        rng = random.Random(self._name(sample, f"{sample.epoch}/{sample.text}"))
        view = rng.randrange(self.feed.augment_views)
        return view - view % 2 if names_a_side(sample.text) else view

    def _seen_from(self, sample: Sample, view: int) -> Tensor:
        """Pixels of a view of the sample's picture, which its texts share in all epochs."""
        image, size = decode_image(sample.encoded(), sample.where), self.feed.image_size
        if self.feed.augment != "none":
            rng = random.Random(self._name(sample, f"view {view}"))
            image = augment_view(image, view, size, self.feed.augment, rng, self.feed.crop_area)
        return to_pixels(image, size)

    def _name(self, sample: Sample, what: object) -> str:
        """What a generator of the sample's own begins with, so that a crop depends on no worker, order or restart."""
        return f"{self.feed.seed}/{sample.shard.name}/{sample.key}/{what}"


class PictureCache:
    """A cache of decoded pictures or grids by image and view, which holds at most `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.size_bytes = limit_bytes, 0
        self._kept: dict[tuple[Path, str, int], Tensor] = {}

    def get(self, sample: Sample, view: int = 0) -> Tensor | None:
        """What the cache holds for the sample's image and view, or None."""
        return self._kept.get((sample.shard.images, sample.key, view))

    def put(self, sample: Sample, made: Tensor, view: int = 0) -> Tensor:
        """Keep `made` for the sample's image and view if there is room; return it."""
        if self.size_bytes + made.nbytes <= self.limit_bytes:
            self._kept[sample.shard.images, sample.key, view] = made
            self.size_bytes += made.nbytes
        return made
