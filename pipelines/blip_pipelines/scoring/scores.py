"""Scores of an image's texts: by each filter, combined, and by a second scorer; one vision pass for each model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from blip_pipelines.scoring.compare import Compared
from blip_pipelines.scoring.lanes import Lanes
from blip_pipelines.scoring.models import Model
from blip_pipelines.scoring.picture import Picture
from blip_pipelines.scoring.rows import CaptionRow, Texts
from blip_training.data.normalise import captions_as_seen
from blip_training.evaluate.clip_scorer import ClipScorer
from blip_training.model.med import EMBED

IMAGES_PER_LOOK = 8
"""Images that a processor encodes at a time: activations then stay in its caches. A GPU takes the whole batch."""

IMAGES_PER_MATCH = {"cpu": 16, "cuda": 256}
"""Most images of one ITM call. Each image's keys and values are made once, whatever the number of its texts. On a GPU a
call of few costs nearly as much as one of many: starting its kernels takes longer than they do."""

MAX_PADDING = {"cpu": 48, "cuda": 4096}
"""Tokens that an ITM call may pad in all, for one text of each image; 24 to 96 took a small model equally long on a
CPU."""


class Looks:
    """What each model sees of a batch of pictures, computed once; dropped once it was asked for `uses` times.

    All are begun at once: with several lanes a filter looks while a captioner, which keeps one core busy, writes.
    """

    def __init__(self, pictures: Sequence[Picture], uses: Sequence[Model], lanes: Lanes) -> None:
        self._left = Counter(uses)
        on_gpu: dict[int, Tensor] = {}
        self._begun = {
            model: lanes.start(model.med.encode_image, _parts(pictures, model, on_gpu)) for model in self._left
        }
        self._states: dict[Model, Tensor] = {}

    def of(self, model: Model) -> Tensor:
        """The model's image states, [B, 1 + P, D]."""
        if model not in self._states:
            self._states[model] = torch.cat(self._begun.pop(model)())
        self._left[model] -= 1
        return self._states[model] if self._left[model] else self._states.pop(model)


def _parts(pictures: Sequence[Picture], model: Model, on_gpu: dict[int, Tensor]) -> Iterator[Tensor]:
    """The pictures' pixels as they are encoded together, each part made when its turn comes.

    To a GPU they go once: `on_gpu` has them by image size for all models that take the same.
    """
    pixels = [picture.pixels[model.image_size] for picture in pictures]
    if model.med.device.type == "cuda":
        if model.image_size not in on_gpu:
            # One by one: to put 256 together here took five times as long as their copy to the GPU (an H200).
            on_gpu[model.image_size] = torch.stack([one.to(model.med.device) for one in pixels])
        yield on_gpu[model.image_size]
        return
    for start in range(0, len(pixels), IMAGES_PER_LOOK):
        yield torch.stack(pixels[start : start + IMAGES_PER_LOOK])


def score_with(filter: Model, rows: Texts, states: Tensor, lanes: Lanes, compared: Compared | None = None) -> None:
    """Append one filter's ITM and ITC score to `itm_scores` and `itc_scores` of every text that is to be read.

    With `compared`, set `distinctness` and `nearest` too; the filter must have ITC.
    """
    texts = to_read(rows)
    longest = filter.med.config.text.max_tokens
    lengths = [min(longest, max((row.num_tokens for row in of_image), default=0)) for of_image in texts]
    if compared:
        compared.embeddings(filter)  # before the lanes, which would each make them
    parts = in_parts(texts, lengths, states.device.type)
    lanes.map(lambda part: _score_some(filter, [texts[i] for i in part], states[part], compared), parts)


def in_parts(texts: Texts, lengths: Sequence[int], device: str) -> list[list[int]]:
    """The images that have texts, as they are scored together; `lengths` are those of their longest texts, in tokens.

    Images with as many texts go together: an image's keys and values then need no copy for each text. Of these, the
    ones whose longest texts are alike: padding is computed too. What takes longest comes first, so that lanes end
    together.
    """
    parts: list[list[int]] = []
    for num_texts in sorted({len(of_image) for of_image in texts if of_image}):
        same = (i for i in range(len(texts)) if len(texts[i]) == num_texts)
        parts += alike(sorted(same, key=lambda i: (-lengths[i], i)), lengths, device)
    parts.sort(key=lambda part: -len(part) * lengths[part[0]] * len(texts[part[0]]))
    return parts


def to_read(rows: Texts) -> Texts:
    """The texts of each image that are scored."""
    return [[row for row in of_image if row.is_read] for of_image in rows]


def alike(images: Sequence[int], lengths: Sequence[int], device: str) -> Iterator[list[int]]:
    """Images, those with the longest texts first, cut where a part would pad more than MAX_PADDING."""
    part: list[int] = []
    padding = 0
    for image in images:
        padding += lengths[part[0]] - lengths[image] if part else 0
        if padding > MAX_PADDING[device] or len(part) == IMAGES_PER_MATCH[device]:
            yield part
            part, padding = [], 0
        part.append(image)
    if part:
        yield part


def _score_some(filter: Model, texts: Texts, states: Tensor, compared: Compared | None) -> None:
    """Append one filter's scores to the texts of images that all have equally many."""
    flat, image_of_row = flatten(texts, states.device)
    seen = captions_as_seen(filter.med.config.text, [row.caption for row in flat])
    ids, mask = filter.tokenizer.encode(seen, filter.med.config.text.max_tokens)
    ids, mask = ids.to(states.device), mask.to(states.device)
    cosines = None  # where the filter's checkpoint has no ITC
    if EMBED in filter.med.capabilities:
        embedded = filter.med.embed_text(ids, mask)
        cosines = (filter.med.embed_image(states)[image_of_row] * embedded).sum(-1)
        if compared:
            compared.compare(filter, flat, embedded, cosines)
    logits = filter.med.match(states, ids, mask, cosines=cosines)
    itm = logits.float().softmax(dim=1)[:, 1].tolist()
    itc = [None] * len(flat) if cosines is None else cosines.float().tolist()
    for row, itm_score, itc_score in zip(flat, itm, itc, strict=True):
        row.itm_scores = [*(row.itm_scores or []), itm_score]
        row.itc_scores = [*(row.itc_scores or []), itc_score]


def flatten(texts: Texts, device: torch.device) -> tuple[list[CaptionRow], Tensor]:
    """All rows, and for each the place of its image."""
    flat = [row for of_image in texts for row in of_image]
    return flat, torch.tensor([i for i, of_image in enumerate(texts) for _ in of_image], device=device)


def combine_scores(rows: Texts, how: Literal["mean", "min"]) -> None:
    """Set `itm_score` and `itc_score` from those of each filter, which stay in the row where there are several."""
    for row in (row for of_image in rows for row in of_image):
        if row.itm_scores and row.itc_scores:
            row.itm_score = _combine(row.itm_scores, how)
            row.itc_score = _combine([score for score in row.itc_scores if score is not None], how)
            if len(row.itm_scores) == 1:
                row.itm_scores = row.itc_scores = None


def _combine(scores: list[float], how: Literal["mean", "min"]) -> float | None:
    """Their mean or least; None where there is none: a filter without ITC has no say in it."""
    if not scores:
        return None
    combine: Callable[[list[float]], float] = min if how == "min" else lambda some: sum(some) / len(some)
    return combine(scores)


def score_again(scorer: ClipScorer, rows: Texts, pictures: Sequence[Picture]) -> None:
    """Set `clip_score` of every text that is not blank."""
    texts = to_read(rows)
    flat, image_of_row = flatten(texts, scorer.device)
    if not flat:
        return
    pixels = [picture.scorer_pixels for picture in pictures if picture.scorer_pixels is not None]
    scores = scorer.score(pixels, [row.caption for row in flat], image_of_row)
    for row, score in zip(flat, scores, strict=True):
        row.clip_score = score
