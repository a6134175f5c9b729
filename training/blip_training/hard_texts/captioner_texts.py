"""The captioner's own mistakes: texts that it writes about human pictures and that no human caption agrees with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from blip_bootstrap.config import HardTextsConfig
from blip_bootstrap.storage.files import write_whole
from blip_training.checkpoint.store import load_med
from blip_training.decoding.generate import generate
from blip_training.decoding.sampler import PRESETS
from blip_training.hard_texts.human_pictures import HumanPictures
from blip_training.model.med import DECODE, require
from blip_training.runtime.agreement import from_all, from_first
from blip_training.runtime.workers import Worker

TEXTS = "captioner_texts.json"

Texts = dict[int, list[str]]
"""Texts of pictures, by image id."""


def disagreeing_texts(
    out: Path, captioner: Path | str, pictures: HumanPictures, config: HardTextsConfig, prompt: str, seed: int,
    worker: Worker,
) -> Texts:  # fmt: skip
    """The texts of the captioner that disagree with all human captions of their picture; written once into `out`.

    Texts are drawn by nucleus sampling (top-p .9), `config.candidates` a picture, each by (seed, picture, candidate)
    alone. Each worker writes about its share of the pictures, and a resumed training, of as many workers or of others,
    reads what was written; where that is damaged they write it again. It costs as much as captioning the human set.
    Raises CheckpointError if the captioner cannot decode.
    """
    if (known := from_first(lambda: read_texts(out / TEXTS), worker)) is not None:
        return known
    mine = {
        image_id: wrong
        for image_id, texts in _written(captioner, pictures, config.candidates, prompt, seed, worker)
        if (wrong := [text for text in texts if disagrees(pictures, image_id, text, config.max_agreement)])
    }
    found = dict(sorted(pair for part in from_all(mine, worker) for pair in part.items()))
    if worker.first:
        write_texts(out / TEXTS, found)
    return found


def write_texts(file: Path, texts: Texts) -> None:
    """Write texts, with a check by which a damaged file is known."""
    write_whole(file, json.dumps({"check": _check(texts), "texts": texts}, indent=0) + "\n")


def read_texts(file: Path) -> Texts | None:
    """The texts in a file; None where it is missing or damaged."""
    try:
        found = json.loads(file.read_bytes())
        texts = {int(image_id): list(map(str, own)) for image_id, own in found["texts"].items()}
        return texts if found["check"] == _check(texts) else None
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None


def _check(texts: Texts) -> str:
    return hashlib.blake2b(json.dumps(texts).encode(), digest_size=8).hexdigest()


def disagrees(pictures: HumanPictures, image_id: int, text: str, limit: float) -> bool:
    """Whether a text contradicts all captions of its picture, and the F1 of its words with each's is below `limit`.

    A low F1 alone does not make a text wrong: of a picture with long captions, "a dog" has one.
    """
    said, captions = pictures.said(text), pictures.captions[image_id]
    near = any(_f1(said, pictures.said(caption)) >= limit for caption in captions)
    return not near and pictures.contradicts(text, image_id)


def _f1(one: frozenset[str], other: frozenset[str]) -> float:
    """The F1 (0..1) of two sets of words; 0 where both are empty."""
    return 2 * len(one & other) / max(1, len(one) + len(other))


@torch.inference_mode()
def _written(
    captioner: Path | str, pictures: HumanPictures, count: int, prompt: str, seed: int, worker: Worker
) -> Iterator[tuple[int, Iterable[str]]]:
    """The distinct, whole texts that the captioner writes about each of this worker's pictures."""
    med, tokenizer = load_med(captioner, worker.device)
    require(med, DECODE, captioner)
    sampler = dataclasses.replace(PRESETS["nucleus"], max_tokens=med.config.text.max_tokens)
    for ids, pixels in pictures.pixels(med.config.vision.image_size, worker.rank, worker.world):
        seeds = [[_seed(seed, image_id, candidate) for candidate in range(count)] for image_id in ids]
        written = generate(med, tokenizer, med.encode_image(pixels), prompt, sampler, seeds)
        for image_id, own in zip(ids, written, strict=True):
            yield image_id, dict.fromkeys(one.text for one in own if not one.flags)


def _seed(*numbers: int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "big")
