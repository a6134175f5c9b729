"""Eight random pictures with texts, two of them the same text and four of two images."""

from __future__ import annotations

import torch

from blip_training.feed.batches import Batch
from tests.support.drawn import SIZE

TEXTS = [
    "a red circle", "there is a square, it is blue", "a green square", "one circle that is yellow, it is yellow",
    "blue", "a red circle", "a picture of a yellow square", "circle",
]  # fmt: skip


def whole_batch(seed: int = 0, ids: list[int] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (8, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return Batch(pixels, TEXTS, torch.tensor(ids or [0, 1, 2, 0, 4, 5, 6, 6]) + 10 * seed)


def cut(batch: Batch, count: int) -> list[Batch]:
    size = len(batch.texts) // count
    at = [slice(i, i + size) for i in range(0, len(batch.texts), size)]
    return [Batch(batch.images[one], batch.texts[one], batch.ids[one]) for one in at]
