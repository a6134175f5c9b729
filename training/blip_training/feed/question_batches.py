"""Training batches of questions about pictures, and the pictures that they are about."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from blip_bootstrap.config import VqaConfig
from blip_bootstrap.errors import InputError
from blip_training.data.augment import augment_image
from blip_training.data.decode import PictureError, broken, decode_to_rgb
from blip_training.data.picture_processes import PictureProcesses
from blip_training.data.pixels import to_pixels
from blip_training.data.questions import Question
from blip_training.feed.feed import Feed


@dataclass(frozen=True)
class VqaBatch:
    """B pictures with questions, and their A answers, each with its weight and the row of its question."""

    images: Tensor
    questions: list[str]
    answers: list[str]
    weights: Tensor
    question_of_answer: Tensor

    def to(self, device: torch.device) -> VqaBatch:
        """This batch with its tensors on `device`."""
        images, weights, rows = (
            t.to(device, non_blocking=True) for t in (self.images, self.weights, self.question_of_answer)
        )
        return VqaBatch(images, self.questions, self.answers, weights, rows)


class VqaData:
    """Endless shuffled batches of questions; a step's batch depends on the seed and the step alone.

    `feed.batch_size` counts questions; `limits` bound what decoding a picture may cost. Raises InputError if a picture
    cannot be read.
    """

    def __init__(self, questions: Sequence[Question], feed: Feed, limits: VqaConfig | None = None) -> None:
        self.questions, self.feed, self.num_samples = questions, feed, len(questions)
        self._limits = limits or VqaConfig()
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)
        self._pictures: dict[Path, Tensor] = {}
        self._held_bytes = 0

    def steps(self, start: int, stop: int) -> Iterator[list[VqaBatch]]:
        """This worker's rows of each step, cut into `feed.accumulate` batches."""
        for step in range(start, stop):
            size = self.feed.batch_size // self.feed.world
            first, micro = step * self.feed.batch_size + self.feed.rank * size, size // self.feed.accumulate
            yield [self._batch(range(at, at + micro)) for at in range(first, first + size, micro)]

    def _batch(self, positions: Sequence[int]) -> VqaBatch:
        questions = [self._at(position) for position in positions]
        images = torch.stack([self._pixels(q, p) for q, p in zip(questions, positions, strict=True)])
        answers = [(row, *answer) for row, question in enumerate(questions) for answer in question.weights.items()]
        return VqaBatch(
            images=images,
            questions=[question.text for question in questions],
            answers=[text for _, text, _ in answers],
            weights=torch.tensor([weight for _, _, weight in answers]),
            question_of_answer=torch.tensor([row for row, _, _ in answers]),
        )

    def _at(self, position: int) -> Question:
        epoch, offset = divmod(position, self.num_samples)
        if epoch != self._epoch:  # drawn once: for a million questions it takes 30 ms
            self._epoch = epoch
            self._order = np.random.default_rng((self.feed.seed, epoch)).permutation(self.num_samples)
        return self.questions[int(self._order[offset])]

    def _pixels(self, question: Question, position: int) -> Tensor:
        """The picture, uint8 [3, H, W]; augmented by a generator of its own, the same on any worker."""
        if self.feed.augment == "none":
            return self._kept(question, self.feed.image_size)
        whole = self._kept(question, None).permute(1, 2, 0)
        rng = random.Random(f"{self.feed.seed}/{position}")
        said = " ".join([question.text, *question.answers])
        size, kind, area = self.feed.image_size, self.feed.augment, self.feed.crop_area
        return to_pixels(augment_image(Image.fromarray(whole.numpy()), said, size, kind, rng, area), size)

    def _kept(self, question: Question, image_size: int | None) -> Tensor:
        """The decoded picture, resized to `image_size` unless that is None, from a cache while it has room."""
        if (kept := self._pictures.get(question.image)) is None:
            kept = read_picture(question, image_size, self._limits)
            if self._held_bytes + kept.nbytes <= self.feed.cache_bytes:
                self._pictures[question.image] = kept
                self._held_bytes += kept.nbytes
        return kept


def read_picture(question: Question, image_size: int | None, limits: VqaConfig) -> Tensor:
    """Read a question's picture: uint8 [3, H, W]. Raises InputError naming the question if it cannot be read."""
    where = f"{question.where}: {question.image}"
    try:
        encoded = question.image.read_bytes()
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from error
    try:
        size, rgb = _decoder(limits.max_pixels, limits.decode_timeout_s)(encoded)
    except PictureError as error:
        raise broken(where, error, "replace the file, or leave its questions out") from error
    image = Image.frombytes("RGB", (size["width"], size["height"]), rgb)
    if image_size is not None:
        return to_pixels(image, image_size)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@cache
def _decoder(max_pixels: int, timeout_s: float) -> PictureProcesses:
    """The child process that decodes the user's files; it lives as long as this process."""
    return PictureProcesses(partial(decode_to_rgb, max_pixels=max_pixels), max_pixels, timeout_s)
