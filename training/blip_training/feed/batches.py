"""Training batches from Parquet: web and human pairs mixed; a step's batch depends on the seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from blip_bootstrap.errors import InputError
from blip_training.feed.counts import count_samples
from blip_training.feed.feed import Feed
from blip_training.feed.lanes import Lanes, num_lanes
from blip_training.feed.left_out import LeftOut
from blip_training.feed.pictures import Pictures
from blip_training.feed.row_groups import Sample
from blip_training.feed.shards import Drawing, Shard, Split, annotated_shards, rng_of, web_shards
from blip_training.feed.stream import Stream

FEED = 2
"""The number of the order in which trainings see their samples; what was begun in another one cannot go on in this."""


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


class TrainingData:
    """Web and human pairs as training samples, one for each pair of image and text.

    Image ids in the batches keep texts of one image from being each other's negatives. Raises InputError if there is no
    pair, or a picture cannot be decoded.
    """

    def __init__(self, web: Sequence[Shard], human: Sequence[Shard], feed: Feed) -> None:
        self.feed = feed
        counts = [count_samples(shards, feed.rank, feed.world, feed.exchange) for shards in (web, human)]
        lanes = [num_lanes(len(one), feed.batch_size) for one in counts]
        of_web, of_human = Lanes(lanes[0], max(lanes)), Lanes(lanes[1], max(lanes), backwards=True)
        self.web = Stream(web, counts[0], 2 * feed.seed, of_web, feed.window_bytes)
        self.human = Stream(human, counts[1], 2 * feed.seed + 1, of_human, feed.window_bytes)
        self.num_samples = self.web.num_samples + self.human.num_samples
        if not self.num_samples:
            raise InputError(_no_pairs(web, human))
        self.human_share = self._share()
        self.pictures = Pictures(feed)

    def _share(self) -> float:
        """The share (0..1) of each batch that comes from the human set."""
        if not self.web.num_samples or not self.human.num_samples:
            return float(self.human.num_samples > 0)
        return self.feed.human_share or self.human.num_samples / self.num_samples

    def steps(self, start: int, stop: int) -> Iterator[list[Batch]]:
        """The micro-batches of each step; with threads the next step is decoded in the background."""
        web, human = self._passed(stop)
        self.web.end_at(web)
        self.human.end_at(human)
        if not self.feed.num_threads:
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
        mine = self.own_samples(step)
        size = len(mine) // self.feed.accumulate
        return [self._batch(mine[i : i + size]) for i in range(0, len(mine), size)]

    def samples(self, step: int) -> list[Sample]:
        """The `batch_size` samples of a step over all workers; reads row groups of every lane."""
        return self._in_slots(step, slice(None))

    def own_samples(self, step: int) -> list[Sample]:
        """This worker's samples of a step; reads row groups of the lanes that they come from."""
        return self._in_slots(step, self.feed.own_slots)

    def _in_slots(self, step: int, slots: slice) -> list[Sample]:
        """The samples in those slots of a batch. Each part of the batch has its own, web and human in random order."""
        (web, human), (web_then, human_then) = self._passed(step), self._passed(step + 1)
        positions = np.concatenate([np.arange(web, web_then), np.arange(human, human_then)])
        is_human = np.arange(len(positions)) >= web_then - web
        parts = np.where(is_human, self.human.lanes.parts(positions), self.web.lanes.parts(positions))
        shuffled = rng_of("batch", self.feed.seed, step).random(len(positions))
        mine = np.lexsort((shuffled, parts))[slots]
        # In the order of their positions: a lane that went back to the window before would read it again.
        found = {at: (self.human if is_human[at] else self.web).at(int(positions[at])) for at in np.sort(mine).tolist()}
        return [found[at] for at in mine.tolist()]

    def _passed(self, step: int) -> tuple[int, int]:
        """How many web and human samples all steps before `step` have."""
        total = step * self.feed.batch_size
        humans = int(total * self.human_share)
        return total - humans, humans

    def _batch(self, samples: list[Sample]) -> Batch:
        ids = torch.tensor([sample.image_id for sample in samples])
        return Batch(self.pictures.of(samples), [sample.text for sample in samples], ids)


def open_training_data(
    images: Path | None, pairs: Path | None, human: Path | None, feed: Feed, split: Split = "all",
    left_out: LeftOut | None = None, drawing: Drawing | None = None,
) -> TrainingData:  # fmt: skip
    """Web pairs (`images` joined with `pairs`, kept rows only) and `split` of the human set; either may be None.

    Raises InputError if there is no pair in either, or a pairs file has no image file.
    """
    left_out = left_out or LeftOut()
    web = web_shards(images, pairs, left_out.web, drawing) if images and pairs else []
    return TrainingData(web, annotated_shards(human, split, left_out.human, drawing) if human else [], feed)


def _no_pairs(web: Sequence[Shard], human: Sequence[Shard]) -> str:
    left_out = sum(len(shards[0].left_out) for shards in (web, human) if shards)
    say = f"; {left_out} pictures that another set has too are left out (same_pictures.leave_out)"
    return f"no training pairs in {_folders(web) or 'no web set'} and {_folders(human) or 'no human set'}" + (
        say if left_out else ""
    )


def _folders(shards: Sequence[Shard]) -> str:
    return ", ".join(sorted({str((shard.pairs or shard.images).parent) for shard in shards}))
