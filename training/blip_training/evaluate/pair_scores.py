"""ITM scores of given pairs of picture and text, some thousands, for calibration; without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from blip_bootstrap.settings.section import Normalise
from blip_training.checkpoint.skip_init import undrawn
from blip_training.checkpoint.store import load_med
from blip_training.data.normalise import captions_as_seen, set_normalise
from blip_training.data.pixels import decode_pixels
from blip_training.model.med import MATCH, require

BATCH_SIZE = 32


def score_pairs(
    filter: str | Path, pictures: Sequence[bytes], texts: Sequence[Sequence[str]], normalise: Normalise = "auto"
) -> list[list[float]]:
    """The probability (0..1) by the filter's ITM head that each encoded picture matches each of its texts.

    `normalise` is the setting `caption.normalise`. Raises CheckpointError if the filter cannot be read or has no ITM
    head, InputError if a picture is damaged.
    """
    with undrawn():
        med, tokenizer = load_med(filter)
    require(med, MATCH, filter)
    set_normalise(med, normalise)
    size, scores = med.config.vision.image_size, []
    with torch.inference_mode():
        for start in range(0, len(pictures), BATCH_SIZE):
            some, written = pictures[start : start + BATCH_SIZE], texts[start : start + BATCH_SIZE]
            pixels = torch.stack([decode_pixels(jpg, size, f"picture {start + at}") for at, jpg in enumerate(some)])
            image_of_row = torch.tensor([at for at, own in enumerate(written) for _ in own])
            seen = captions_as_seen(med.config.text, [text for own in written for text in own])
            ids, mask = tokenizer.encode(seen, med.config.text.max_tokens)
            scores += _by_picture(med.match(med.encode_image(pixels), ids, mask, image_of_row), written)
    return scores


def _by_picture(logits: Tensor, texts: Sequence[Sequence[str]]) -> list[list[float]]:
    matches = iter(logits.float().softmax(dim=1)[:, 1].tolist())
    return [[next(matches) for _ in own] for own in texts]
