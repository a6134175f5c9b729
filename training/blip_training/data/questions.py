"""Questions about pictures, with the answers that people gave: JSON lines, and training batches of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from blip_bootstrap.config import VqaConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.header import Header
from blip_bootstrap.reading.json_files import parse_json
from blip_bootstrap.reading.records import JSON_ENDINGS, Record, read_records
from blip_bootstrap.reading.text_files import lines_of, plain_suffix
from blip_bootstrap.storage.cells import NotTextError, described, folded_text_of, text_of
from blip_training.data.augment import augment_image
from blip_training.data.batches import Feed
from blip_training.data.decode import PictureError, broken, decode_to_rgb
from blip_training.data.picture_processes import PictureProcesses
from blip_training.data.pixels import to_pixels

MAX_TEXT_CHARS = 10_000
"""The longest question or answer that is read: the tokenizer would take minutes for some megabytes."""

SHAPE = '{"image": file, "question": text, "answers": [text, ...] or {text: count}}'


@dataclass(frozen=True)
class Question:
    """A question about a picture; `answers` are the numbers of people who gave each, empty if nobody did."""

    image: Path
    text: str
    answers: Mapping[str, float] = field(default_factory=dict)
    where: str = ""

    @property
    def weights(self) -> dict[str, float]:
        """Each answer's share of the people who answered; the shares sum to 1."""
        total = sum(self.answers.values())
        return {answer: count / total for answer, count in self.answers.items()}


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


def read_questions(file: Path, image_root: Path | None = None, answered: bool = True) -> list[Question]:
    """Read questions from JSON lines {image, question, answers}; pictures are relative to `image_root` or the file.

    `answers` are texts, one for each person, or a mapping from text to number of people; with `answered` each question
    must have one. Raises InputError naming the line that is wrong.
    """
    root = image_root or file.parent
    records = read_records(file, _columns, "a list of questions", (*JSON_ENDINGS, ".parquet"), ".jsonl")
    questions = [_question(record, f"{file}: {record.where}", root, answered) for record in records]
    if not questions:
        raise InputError(f"{file}: no question in it; each line is {SHAPE}")
    return questions


def check_pictures(questions: Sequence[Question]) -> None:
    """Raise InputError if pictures are missing; the message counts them and names the first."""
    missing = {q.image: q.where for q in questions if not q.image.is_file()}
    if missing:
        image, where = next(iter(missing.items()))
        of_all = f"{len(missing):,} of {len({q.image for q in questions}):,} pictures are missing"
        raise InputError(f"{where}: {image} is not there; {of_all} (pictures are looked for under --image-root)")


def _columns(found: Header) -> list[str]:
    found.require({"image": "image", "question": "question"})
    return ["image", "question", *(["answers"] if "answers" in found.names else [])]


def read_answers(file: Path) -> list[str]:
    """Read a closed list of distinct answers, one a line or as a JSON list. Raises InputError if there is none."""
    lines: Any = [line for _, line in lines_of(file)]
    try:
        lines = parse_json("\n".join(lines)) if plain_suffix(file) == ".json" else lines
        found = [folded_text_of(line) for line in lines] if isinstance(lines, list) else []
    except ValueError as error:  # NotTextError is one
        raise InputError(f"{file}: a JSON list of texts was expected ({error})") from error
    if not isinstance(lines, list):
        raise InputError(f"{file}: a JSON list of texts was expected")
    answers = [text for text in dict.fromkeys(found) if text]
    if not answers:
        raise InputError(f"{file}: no answer in it; one a line is expected")
    return answers


def _question(record: Record, where: str, root: Path, answered: bool) -> Question:
    if record.mistake:
        raise InputError(f"{where} is not a JSON object; each line is {SHAPE}")
    image, text = (_text(record.cells.get(name), f"{where}: {name}") for name in ("image", "question"))
    answers = _answers(record.cells.get("answers"), where)
    if answered and not answers:
        raise InputError(f"{where}: no answers; each line is {SHAPE}")
    return Question(root / image, " ".join(text.split()), answers, where)


def _text(cell: Any, where: str) -> str:
    try:
        text = text_of(cell)
    except NotTextError as error:
        raise InputError(f"{where} is {error}, a text was expected; each line is {SHAPE}") from error
    if not text.strip():
        raise InputError(f"{where} is {described(cell)}, a text was expected; each line is {SHAPE}")
    if len(text) > MAX_TEXT_CHARS:
        raise InputError(f"{where} has {len(text):,} characters, at most {MAX_TEXT_CHARS:,} are read; leave it out")
    return text


def _answers(given: Any, where: str) -> dict[str, float]:
    """How many people gave each answer, whitespace folded; null, NaN and blank texts are left out."""
    given = given if isinstance(given, list | dict) else [given]
    counted = given.items() if isinstance(given, dict) else [(one, 1) for one in given]
    if not all(_is_count(count) for _, count in counted):
        raise InputError(f"{where}: the answers' counts are no numbers above 0; each line is {SHAPE}")
    folded: Counter[str] = Counter()
    for cell, count in counted:
        try:
            words = folded_text_of(cell)
        except NotTextError as error:
            raise InputError(f"{where}: an answer is {error}, a text was expected; each line is {SHAPE}") from error
        if len(words) > MAX_TEXT_CHARS:
            raise InputError(f"{where}: an answer has {len(words):,} characters; at most {MAX_TEXT_CHARS:,} are read")
        if words:
            folded[words] += count
    return dict(folded)


def _is_count(count: Any) -> bool:
    return isinstance(count, int | float) and not isinstance(count, bool) and 0 < count < float("inf")


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
