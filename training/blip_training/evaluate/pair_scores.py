"""Scores of given (picture, text) pairs by a filter, without Ray: some thousands, for calibration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from blip_bootstrap.config.section import Normalise


BATCH_SIZE = 32


def score_pairs(
    filter: str | Path, pictures: Sequence[bytes], texts: Sequence[Sequence[str]], normalise: Normalise = "auto"
) -> list[list[float]]:
    """P(match) by the filter's ITM head, 0..1, of each picture (encoded) with each of its texts.

    `normalise` is caption.normalise.
    Raises CheckpointError where the filter cannot be read or has no ITM head, InputError where a picture is damaged.
    """
    import torch

    from blip_training.checkpoint.skip_init import undrawn
    from blip_training.checkpoint.store import load_med
    from blip_training.data.normalise import captions_as_seen, set_normalise
    from blip_training.data.pixels import decode_pixels
    from blip_training.model.med import MATCH, require

    with undrawn():
        med, tokenizer = load_med(filter)
    require(med, MATCH, filter)
    set_normalise(med, normalise)
    size, scores = med.config.vision.image_size, []
    with torch.inference_mode():
        for start in range(0, len(pictures), BATCH_SIZE):
            some, said = pictures[start : start + BATCH_SIZE], texts[start : start + BATCH_SIZE]
            pixels = torch.stack([decode_pixels(jpg, size, f"picture {start + at}") for at, jpg in enumerate(some)])
            image_of_row = torch.tensor([at for at, mine in enumerate(said) for _ in mine])
            seen = captions_as_seen(med.config.text, [text for mine in said for text in mine])
            ids, mask = tokenizer.encode(seen, med.config.text.max_tokens)
            scores += _by_picture(med.match(med.encode_image(pixels), ids, mask, image_of_row), said)
    return scores


def _by_picture(logits: Tensor, texts: Sequence[Sequence[str]]) -> list[list[float]]:
    matches = iter(logits.float().softmax(dim=1)[:, 1].tolist())
    return [[next(matches) for _ in mine] for mine in texts]
