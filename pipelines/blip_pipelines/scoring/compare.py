"""Texts beside the reference pictures: how distinct their own picture is, and what it adds to their likelihood."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from blip_pipelines.scoring.lanes import Lanes
from blip_pipelines.scoring.models import Model
from blip_pipelines.scoring.references import Reference, keys_of
from blip_pipelines.scoring.rows import CaptionRow
from blip_training.data.pixels import decode_pixels
from blip_training.evaluate.likelihood import log_likelihoods
from blip_training.evaluate.retrieval import first_of

AS_SIMILAR = 1e-5
"""Similarities that differ by no more are equal: those of one picture in two batches differ in the last digits."""

ENCODED_AT_ONCE = {"cpu": 8, "cuda": 128}

TEXTS_PER_PART = 32
"""Most texts that are read beside one reference at a time; the logits of each token are 30,522 numbers."""

PADDING_PER_PART = 80
"""Tokens that such a part may pad in all: another part makes the reference's keys and values anew, which at base size
costs as much as so many tokens."""

REFERENCES_PER_CALL = {"cpu": 4, "cuda": 16}
"""References that are read at once: a call has a cost of its own. With a small model on a CPU lift took 3.2 ms an image
by 1, 2.0 by 4 and 1.9 by 16."""


class Compared:
    """Reference pictures as each model sees them, encoded once; `num_lift` of them are what lift compares with."""

    def __init__(self, references: Sequence[Reference], count: int, num_lift: int) -> None:
        self._references = list(references[: count + 1]) if count else []
        self._count, self.num_lift = count, min(num_lift, count) if self._references else 0
        self._places = keys_of(self._references)
        self._states: dict[Model, Tensor] = {}
        self._embedded: dict[Model, Tensor] = {}

    def states(self, model: Model) -> Tensor:
        """The model's image states of the references, [R, 1 + P, D]."""
        if model not in self._states:
            self._states[model] = torch.cat(list(self._encode(model)))
        return self._states[model]

    def embeddings(self, model: Model) -> Tensor:
        """The model's ITC embeddings of the references, [R, E]."""
        if model not in self._embedded:
            self._embedded[model] = torch.cat([model.med.embed_image(states) for states in self._encode(model)])
        return self._embedded[model]

    def _encode(self, model: Model) -> Iterator[Tensor]:
        size = ENCODED_AT_ONCE[model.med.device.type]
        for start in range(0, len(self._references), size):
            some = self._references[start : start + size]
            yield model.med.encode_image(torch.stack([decode_pixels(r.jpg, model.image_size, r.key) for r in some]))

    def __bool__(self) -> bool:
        return bool(self._references)

    def of_pictures(self, rows: Sequence[Mapping[str, Any]]) -> Self:
        """The same references for texts of the pictures `rows` (`key`, `jpg`), which may be of another set.

        The keys of two sets may be equal, so that here the reference with a picture's own bytes is its own.
        """
        of_bytes = {reference.jpg: place for place, reference in reversed([*enumerate(self._references)])}
        known = {row["key"]: of_bytes[row["jpg"]] for row in rows if row["jpg"] in of_bytes}
        same = {
            row["key"]: place
            for row in rows
            if (place := self._places.get(row["key"])) is not None and self._references[place].jpg == row["jpg"]
        }
        found = copy.copy(self)
        found._places = known | same  # of two equal pictures the one with the same key
        return found

    def beside(self, key: str) -> list[int]:
        """The references of a text of the picture `key`: all but its own, or but the last, which stands in for it.

        Where there are no more than asked for, none stands in: a text of another picture then has one more.
        """
        own = self._places.get(key, self._count)
        return [place for place in range(len(self._references)) if place != own]

    def compare(self, filter: Model, rows: Sequence[CaptionRow], texts: Tensor, cosines: Tensor) -> None:
        """Set `distinctness` and `nearest` of texts by their ITC embeddings [N, E] and cosines [N] with their pictures.

        Distinctness is the share of the references that are less similar to the text than its own picture; one that is
        as similar counts half.
        """
        beside = [self.beside(row.first or row.key) for row in rows]
        if not any(beside):
            return
        is_beside = torch.zeros(len(rows), len(self._references))  # by rows, which need not have equally many
        for at, places in enumerate(beside):
            is_beside[at, places] = 1
        is_beside = is_beside.to(texts.device)
        with torch.autocast(texts.device.type, enabled=False):  # bfloat16 would make many of them equal
            similar = texts.float() @ self.embeddings(filter).float().T
        ahead = cosines.float()[:, None] - similar
        wins = ((ahead > AS_SIMILAR).float() + (ahead >= -AS_SIMILAR).float()) * is_beside
        shares = wins.sum(1) / 2 / is_beside.sum(1).clamp(min=1)
        similar = similar.masked_fill(is_beside == 0, -torch.inf)
        nearest = first_of(similar, self.num_lift) if self.num_lift else torch.zeros_like(similar, dtype=torch.bool)
        for row, share, near, own in zip(rows, shares.tolist(), nearest.tolist(), beside, strict=True):
            row.distinctness = share if own else None
            row.nearest = tuple(place for place in own if near[place])


@dataclass(frozen=True)
class Part:
    """Texts, by their pieces, that are read beside one reference; the longest first."""

    reference: int
    texts: tuple[tuple[int, ...], ...]


def set_lift(captioner: Model, rows: Sequence[CaptionRow], compared: Compared, num_prompt: int, lanes: Lanes) -> None:
    """Set `lift` of texts whose `logprob` and `pieces` are by this captioner.

    It is log p(text | picture) less the mean of log p(text | reference) over the nearest references, nats; where no ITC
    has found these, over the first. A text that stands at several pictures is read once beside a reference.
    """
    of_row = [(row, row.nearest or tuple(compared.beside(row.first or row.key)[: compared.num_lift])) for row in rows]
    of_row = [(row, near) for row, near in of_row if near]
    if not of_row:
        return
    states, device = compared.states(captioner), captioner.med.device.type
    calls = list(_calls({(place, row.pieces) for row, near in of_row for place in near}, device))
    read = lanes.map(lambda call: _read(captioner, call, states, num_prompt), calls)
    found: dict[tuple[int, tuple[int, ...]], float] = {}
    for call, likelihoods in zip(calls, read, strict=True):
        for part, of_part in zip(call, likelihoods.tolist(), strict=True):
            found |= {(part.reference, text): one for text, one in zip(part.texts, of_part, strict=False)}
    for row, near in of_row:
        assert row.logprob is not None
        row.lift = row.logprob - sum(found[place, row.pieces] for place in near) / len(near)


def _calls(pairs: set[tuple[int, tuple[int, ...]]], device: str) -> Iterator[list[Part]]:
    """What is read at a time: parts of about as many texts, the largest first, so that lanes end together."""
    by_reference: dict[int, list[tuple[int, ...]]] = {}
    for place, text in sorted(pairs, key=lambda pair: (pair[0], -len(pair[1]), pair[1])):
        by_reference.setdefault(place, []).append(text)
    parts = [part for place, texts in by_reference.items() for part in _parts(place, texts)]
    parts.sort(key=lambda part: (-len(part.texts) * len(part.texts[0]), part.reference))
    size = REFERENCES_PER_CALL[device]
    return (parts[start : start + size] for start in range(0, len(parts), size))


def _parts(reference: int, texts: Sequence[tuple[int, ...]]) -> Iterator[Part]:
    part: list[tuple[int, ...]] = []
    padding = 0
    for text in texts:
        padding += len(part[0]) - len(text) if part else 0
        if padding > PADDING_PER_PART or len(part) == TEXTS_PER_PART:
            yield Part(reference, tuple(part))
            part, padding = [], 0
        part.append(text)
    yield Part(reference, tuple(part))


def _read(captioner: Model, call: Sequence[Part], states: Tensor, num_prompt: int) -> Tensor:
    """Log-likelihoods of the texts of each part beside its reference, [parts, most texts]; others of no meaning."""
    most = max(len(part.texts) for part in call)
    texts = [text for part in call for text in (*part.texts, *([part.texts[-1]] * (most - len(part.texts))))]
    ids, mask = as_tensors(captioner, texts)
    places = torch.tensor([part.reference for part in call], device=states.device)
    return log_likelihoods(captioner.med, states[places], ids, mask, num_prompt).view(len(call), most)


def as_tensors(captioner: Model, texts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Ids and mask [N, T] of texts by their pieces, on the model's device."""
    longest, tokenizer = max(map(len, texts)), captioner.tokenizer
    padded = [[tokenizer.dec_id, *text, *([tokenizer.pad_id] * (longest - len(text)))] for text in texts]
    lengths = torch.tensor([1 + len(text) for text in texts])
    mask = (torch.arange(1 + longest) < lengths[:, None]).long()
    device = captioner.med.device
    return torch.tensor(padded).to(device, non_blocking=True), mask.to(device, non_blocking=True)
