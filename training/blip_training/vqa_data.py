"""Questions about pictures, with the answers that people gave: JSON lines, and training batches of them."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from blip_bootstrap.errors import InputError
from blip_training.data import Feed
from blip_training.images import augment_image, to_pixels
from blip_training.pictures import decode_image

SHAPE = '{"image": file, "question": text, "answers": [text, ...] or {text: count}}'


@dataclass(frozen=True)
class Question:
    """A question about a picture. `answers`: how many people gave each; empty where nobody was asked."""

    image: Path
    text: str
    answers: Mapping[str, float] = field(default_factory=dict)
    where: str = ""

    @property
    def weights(self) -> dict[str, float]:
        """Each answer's share of the people asked; they sum to 1."""
        total = sum(self.answers.values())
        return {answer: count / total for answer, count in self.answers.items()}


@dataclass(frozen=True)
class VqaBatch:
    """Pictures and questions [B], all their answers [A] with weights, and the question that each answer is of."""

    images: Tensor
    questions: list[str]
    answers: list[str]
    weights: Tensor
    question_of_answer: Tensor

    def to(self, device: torch.device) -> VqaBatch:
        """The same batch, its tensors on `device`."""
        images, weights, rows = (
            t.to(device, non_blocking=True) for t in (self.images, self.weights, self.question_of_answer)
        )
        return VqaBatch(images, self.questions, self.answers, weights, rows)


def read_questions(file: Path, image_root: Path | None = None, answered: bool = True) -> list[Question]:
    """Questions from JSON lines {image, question, answers}; pictures relative to `image_root` or to the file.

    `answers` are texts, one for each person asked, or a mapping from text to the number of people; with `answered`
    every question must have one. Raises InputError naming the line that is wrong.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    root = image_root or file.parent
    numbered = [(f"{file}: line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
    questions = [_question(line, where, root, answered) for where, line in numbered]
    if not questions:
        raise InputError(f"{file}: no question in it; each line is {SHAPE}")
    return questions


def check_pictures(questions: Sequence[Question]) -> None:
    """Raise InputError where a picture is not there, before any work; the message counts them and names the first."""
    missing = {q.image: q.where for q in questions if not q.image.is_file()}
    if missing:
        image, where = next(iter(missing.items()))
        of_all = f"{len(missing):,} of {len({q.image for q in questions}):,} pictures are missing"
        raise InputError(f"{where}: {image} is not there; {of_all} (pictures are looked for under --image-root)")


def _question(line: str, where: str, root: Path, answered: bool) -> Question:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON ({error}); each line is {SHAPE}") from error
    if not isinstance(row, dict):
        raise InputError(f"{where} is not a JSON object; each line is {SHAPE}")
    for name in ("image", "question"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise InputError(f"{where}: {name} is {row.get(name)!r}, a text was expected; each line is {SHAPE}")
    answers = _answers(row.get("answers"), where)
    if answered and not answers:
        raise InputError(f"{where}: no answers; each line is {SHAPE}")
    return Question(root / row["image"], " ".join(row["question"].split()), answers, where)


def _answers(given: Any, where: str) -> dict[str, float]:
    """How many people gave each answer, whitespace folded."""
    if isinstance(given, str):
        given = [given]
    counted = given.items() if isinstance(given, dict) else Counter(given).items() if _is_texts(given) else None
    if given is None:
        return {}
    if counted is None or not all(_is_count(count) for _, count in counted):
        raise InputError(f"{where}: answers are {str(given)[:60]!r}, texts or a mapping of text to count were expected")
    folded: Counter[str] = Counter()
    for text, count in counted:
        if words := " ".join(text.split()):
            folded[words] += count
    return dict(folded)


def _is_texts(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(text, str) for text in given)


def _is_count(count: Any) -> bool:
    return isinstance(count, int | float) and not isinstance(count, bool) and 0 < count < float("inf")


class VqaData:
    """Endless shuffled batches of questions; a step's batch is the same on every worker and after every restart.

    `feed.batch_size` counts questions. Raises InputError where a picture cannot be read.
    """

    def __init__(self, questions: Sequence[Question], feed: Feed) -> None:
        self.questions, self.feed, self.num_samples = questions, feed, len(questions)
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)
        self._pictures: dict[Path, Tensor] = {}
        self._held_bytes = 0

    def steps(self, start: int, stop: int) -> Iterator[list[VqaBatch]]:
        """For each step this worker's part, cut into `feed.accumulate` batches."""
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
        """The decoded picture, squashed to `image_size` or as it is; kept in memory while there is room."""
        if (kept := self._pictures.get(question.image)) is None:
            kept = read_picture(question, image_size)
            if self._held_bytes + kept.nbytes <= self.feed.cache_bytes:
                self._pictures[question.image] = kept
                self._held_bytes += kept.nbytes
        return kept


def read_picture(question: Question, image_size: int | None) -> Tensor:
    """The question's picture, uint8 [3, H, W]; InputError names the question where it cannot be read."""
    where = f"{question.where}: {question.image}"
    try:
        encoded = question.image.read_bytes()
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from error
    image = decode_image(encoded, where, "replace the file, or leave its questions out")
    if image_size is not None:
        return to_pixels(image, image_size)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
