"""Human captions of near pictures: wrong texts that a filter confuses with a picture's own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import torch

from blip_training.data.word_kinds import words_of
from blip_training.hard_texts.captioner_texts import Texts
from blip_training.hard_texts.human_pictures import HumanPictures
from blip_training.model.med import Med

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor


NEAR = 8
"""Near pictures whose captions a picture may get."""

LOOKED_AT = 64
"""The nearest pictures among which they are sought."""

ROWS_AT_ONCE = 1024


def texts_of_near_pictures(med: Med, pictures: HumanPictures) -> Texts:
    """For each picture the captions of the `NEAR` pictures nearest by ITC that are surely not true of it.

    A near picture shares no caption with the picture, and its caption contradicts all captions of the picture. `med`
    embeds each picture once, and every two pictures are compared.
    """
    ids, embedded = _embedded(med, pictures)
    size = med.config.vision.image_size
    assert len(ids) == len(pictures.captions), f"{len(ids)} pictures of {size} px, {len(pictures.captions)} captioned"
    texts = [{tuple(words_of(text)) for text in pictures.captions[one]} for one in ids]
    found: Texts = {}
    for row, nearest in _nearest(embedded):
        apart = [i for i in nearest if i != row and not texts[i] & texts[row]]
        wrong = ([text for text in pictures.captions[ids[i]] if pictures.contradicts(text, ids[row])] for i in apart)
        if own := [text for some in islice(filter(None, wrong), NEAR) for text in some]:
            found[ids[row]] = own
    return found


@torch.no_grad()
def _embedded(med: Med, pictures: HumanPictures) -> tuple[list[int], Float[Tensor, "n e"]]:
    """The image ids and the ITC embeddings of all pictures, without dropout."""
    training, ids, rows = med.training, [], []
    med.eval()
    for some, pixels in pictures.pixels(med.config.vision.image_size):
        ids += some
        rows.append(med.embed_pixels(pixels))
    med.train(training)
    return ids, torch.cat(rows)


def _nearest(embedded: Float[Tensor, "n e"]) -> Iterator[tuple[int, list[int]]]:
    """Each row with its nearest rows, the nearest first; it is among them itself."""
    for start in range(0, len(embedded), ROWS_AT_ONCE):
        similar = embedded[start : start + ROWS_AT_ONCE] @ embedded.T
        places: Int64[Tensor, "r k"] = similar.topk(min(LOOKED_AT, len(embedded)), dim=1).indices
        yield from enumerate(places.tolist(), start)
