"""Hard wrong texts for a filter: swapped captions, the captioner's mistakes, and captions of near pictures."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blip_bootstrap.config import FinetuneConfig
from blip_bootstrap.errors import InputError
from blip_training.data.augment import names_a_side
from blip_training.data.tokenizer import Tokenizer
from blip_training.feed.batches import Batch
from blip_training.feed.shards import Shard
from blip_training.hard_texts.captioner_texts import Texts, disagreeing_texts
from blip_training.hard_texts.human_pictures import HumanPictures
from blip_training.hard_texts.near_texts import texts_of_near_pictures
from blip_training.hard_texts.swaps import Swapper
from blip_training.model.med import Med
from blip_training.objective.micro_batches import MicroBatch, with_wrong_texts
from blip_training.runtime.workers import Worker

log = logging.getLogger(__name__)

Draw = Callable[[int, str, random.Random], str | None]
"""Draws a wrong text for a picture (its image id) with one of its captions; None where there is none."""


@dataclass(frozen=True)
class Kind:
    """One kind of hard texts.

    `share` (0..1) of the pictures of a batch get one; `available` is the share of the human captions for whose pictures
    there is one, `num_texts` the number of different ones (of swapped ones: of captions that can be swapped).
    """

    share: float
    draw: Draw
    num_texts: int
    available: float


class HardTexts:
    """The hard texts of every step of a filter's fine-tuning, by (seed, step, picture and caption) alone."""

    def __init__(self, kinds: Mapping[str, Kind], seed: int) -> None:
        self.kinds, self.seed = kinds, seed

    def with_texts(
        self, med: Med, tokenizer: Tokenizer, step: int, batches: Sequence[Batch], micro_batches: Sequence[MicroBatch]
    ) -> list[MicroBatch]:
        """The micro-batches of a step with their hard texts; `batches` are what they were made from."""
        both = zip(batches, micro_batches, strict=True)
        return [with_wrong_texts(med, tokenizer, micro, self.of_batch(step, batch)) for batch, micro in both]

    def of_batch(self, step: int, batch: Batch) -> list[tuple[int, str]]:
        """Hard texts for the rows of a batch: row and text; a row may have one of each kind."""
        found = []
        for row, (image_id, text) in enumerate(zip(batch.ids.tolist(), batch.texts, strict=True)):
            for name, kind in self.kinds.items():
                rng = random.Random(f"{self.seed}/{step}/{image_id}/{text}/{name}")
                if rng.random() < kind.share and (wrong := kind.draw(image_id, text, rng)):
                    found.append((row, wrong))
        return found

    @property
    def num_per_picture(self) -> float:
        """How many hard texts a picture of a batch has on average."""
        return sum(kind.share * kind.available for kind in self.kinds.values())

    def counts(self) -> dict[str, int]:
        """The number of texts of each kind."""
        return {f"hard_texts_{name}": kind.num_texts for name, kind in self.kinds.items()}


def open_hard_texts(
    out: Path, med: Med, shards: Sequence[Shard], config: FinetuneConfig, worker: Worker,
    captioner: Path | str | None = None,
) -> HardTexts | None:  # fmt: skip
    """Make the hard texts that `config.hard_texts` asks for; None where it asks for none.

    `med` is the model that the fine-tuning starts from, and `shards` are what it trains on. Raises InputError where
    there is not one text of a kind that is asked for, or no captioner to write them.
    """
    hard, seed, pictures = config.hard_texts, config.optimizer.seed, HumanPictures(shards)
    kinds: dict[str, Kind] = {}
    if hard.swapped:
        kinds["swapped"] = _swapped(pictures, hard.swapped)
    if hard.captioner:
        if captioner is None:
            raise InputError("hard_texts.captioner: no captioner is given to write these texts; set it to 0")
        texts = disagreeing_texts(out, captioner, pictures, hard, config.prompt, seed, worker)
        kinds["captioner"] = _drawn_from(texts, pictures, hard.captioner, config.augment != "none")
    if hard.near:
        texts = texts_of_near_pictures(med, pictures)
        kinds["near"] = _drawn_from(texts, pictures, hard.near, config.augment != "none")
    for name, kind in kinds.items():
        if not kind.num_texts:
            raise InputError(f"{shards[0].images.parent}: {_NO_TEXT[name]}; set hard_texts.{name} to 0")
        if worker.first:
            log.info("hard texts, %s: %d, for %.0f %% of the captions", name, kind.num_texts, 100 * kind.available)
    return HardTexts(kinds, seed) if kinds else None


_NO_TEXT = {
    "swapped": "no caption has a word that can be swapped for another of its kind",
    "captioner": "the captioner wrote no text that contradicts all captions of its picture",
    "near": "no near picture has a caption that contradicts those of another one",
}


def _swapped(pictures: HumanPictures, share: float) -> Kind:
    swapper, captions = Swapper(pictures.kinds), pictures.captions
    can = [swapper.can_swap(text, own) for own in captions.values() for text in own]

    def draw(image_id: int, text: str, rng: random.Random) -> str | None:
        return swapper.swap(text, captions[image_id], rng)

    return Kind(share, draw, sum(can), sum(can) / len(can))


def _drawn_from(texts: Texts, pictures: HumanPictures, share: float, mirrors: bool) -> Kind:
    """A kind whose texts are made beforehand.

    With `mirrors` a picture is mirrored in training unless its caption names a side: a text that names one could then
    become true, and is not drawn.
    """

    def draw(image_id: int, text: str, rng: random.Random) -> str | None:
        if image_id not in texts:
            return None
        wrong = rng.choice(texts[image_id])
        return None if mirrors and names_a_side(wrong) and not names_a_side(text) else wrong

    num_captions = sum(map(len, pictures.captions.values()))
    num_with = sum(len(pictures.captions[image_id]) for image_id in texts)
    return Kind(share, draw, sum(map(len, texts.values())), num_with / num_captions)
