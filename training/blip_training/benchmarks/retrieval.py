"""The task of retrieval: texts for pictures or videos and the reverse, by ITC, re-ranked by ITM; and ITM by itself."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from blip_bootstrap.errors import InputError
from blip_bootstrap.machine import free_bytes
from blip_bootstrap.progress import Progress
from blip_training.benchmarks.captioned import Captioned
from blip_training.benchmarks.work import BLOCK, Work, as_videos, blocks_of, check_finite
from blip_training.data.tokenizer import Tokenizer
from blip_training.evaluate.matching import RERANKED_ABOVE
from blip_training.evaluate.retrieval import area_under_curve, best_ranks, first_of, recalls, similarities
from blip_training.model.med import EMBED, MATCH, Med

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64


TEXTS_TO_A_PICTURE = 4
"""A text takes a fraction of a picture's memory, so that so many times as many are read together."""

MATCHED_TO_A_BLOCK = 8
"""Matching takes most of the time, some hundred texts a picture: so many times fewer pictures are kept together."""

BYTES_A_PAIR = 20
"""What similarities, ranks and masks of one pair take at the most."""


@dataclass(frozen=True)
class Gallery:
    """Items and all their texts.

    As in the released code each text is right for its own item alone, and two people's same words are two texts. With
    `merged` equal texts are one, which is right for each of its items, as where a round's models are measured.
    """

    items: Sequence[Captioned]
    merged: bool = False

    @cached_property
    def texts(self) -> list[str]:
        """All texts, in the order of the items."""
        every = [text for item in self.items for text in item.captions]
        return list(dict.fromkeys(every)) if self.merged else every

    @cached_property
    def own(self) -> list[Sequence[int]]:
        """The places of each item's texts in `texts`."""
        if self.merged:
            places = {text: place for place, text in enumerate(self.texts)}
            return [sorted({places[text] for text in item.captions}) for item in self.items]
        ends = list(accumulate((len(item.captions) for item in self.items), initial=0))
        return [range(first, last) for first, last in pairwise(ends)]

    @property
    def right(self) -> Bool[Tensor, "n t"]:
        """Which texts are right for each item."""
        right = torch.zeros(len(self.items), len(self.texts), dtype=torch.bool)
        for row, own in enumerate(self.own):
            right[row, list(own)] = True
        return right

    def wrong(self, row: int, seed: int) -> list[int]:
        """As many texts of other items as this one has, drawn by the seed and the item's key alone."""
        own, count = self.own[row], len(self.texts)
        rng = random.Random(f"{seed}/{self.items[row].key}")
        drawn: list[int] = []
        while len(drawn) < len(own) < count:
            if (text := rng.randrange(count)) not in own:
                drawn.append(text)
        return drawn


def measure_retrieval(med: Med, tokenizer: Tokenizer, items: Sequence[Captioned], work: Work) -> dict[str, float]:
    """tr1 tr5 tr10 tr_mdr (texts for an item) and ir1 ir5 ir10 ir_mdr (items for a text), and figures of ITM.

    Recalls are shares (0..1), `_mdr` the median rank from 1. Where ITM re-ranks, `itc_` before a name is the figure by
    ITC alone. itm_auc, itm_precision and itm_recall are over each item's own texts and as many drawn ones of others.
    """
    gallery = Gallery(items, merged=work.benchmark.is_own)
    check_memory(gallery)
    pairs = Pairs(med, tokenizer, gallery, work)
    figures: dict[str, float] = {}
    if EMBED in med.capabilities:
        scores = pairs.similarities()
        figures = _recalls(scores, scores.T, gallery.right)
    if MATCH in med.capabilities:
        top_k = work.rerank_top_k if figures else 0
        of_item, of_text, matched = pairs.match(scores if figures else None, top_k)
        if top_k:
            judged = scores.clone()
            judged[matched.rows, matched.texts] += RERANKED_ABOVE + matched.logits[:, 1]
            ranked = torch.where(of_item, judged, scores), torch.where(of_text, judged, scores).T
            figures = _recalls(*ranked, gallery.right) | {f"itc_{name}": value for name, value in figures.items()}
        figures |= matching_figures(gallery, matched, work)
    return figures


def check_memory(gallery: Gallery) -> None:
    """Raise InputError where the table of all pairs would not fit in memory."""
    wanted, free = len(gallery.items) * len(gallery.texts) * BYTES_A_PAIR, free_bytes()
    if free and wanted > free:
        pairs = f"{len(gallery.items):,} pictures or videos with {len(gallery.texts):,} texts"
        raise InputError(f"retrieval over {pairs} takes {wanted / 1e9:.1f} GB of memory; take fewer by --limit")


@dataclass(frozen=True)
class Matched:
    """P pairs of an item and a text, by the items' order, with their ITM logits."""

    rows: Int64[Tensor, " p"]
    texts: Int64[Tensor, " p"]
    logits: Float[Tensor, "p 2"]


def _recalls(
    by_item: Float[Tensor, "n t"], by_text: Float[Tensor, "t n"], right: Bool[Tensor, "n t"]
) -> dict[str, float]:
    texts, items = best_ranks(by_item, right), best_ranks(by_text, right.T)
    return (
        recalls(texts, "tr") | {"tr_mdr": _median_rank(texts)} | recalls(items, "ir") | {"ir_mdr": _median_rank(items)}
    )


def _median_rank(ranks: Int64[Tensor, " q"]) -> float:
    """The median of the ranks from 1; of an even number the mean of both in the middle."""
    in_order = (ranks + 1).double().sort().values
    middle = len(in_order) // 2
    return float(in_order[middle] if len(in_order) % 2 else in_order[middle - 1 : middle + 1].mean())


class Pairs:
    """ITC and ITM scores of the pairs of a gallery; embeddings and logits of finished blocks are kept."""

    def __init__(self, med: Med, tokenizer: Tokenizer, gallery: Gallery, work: Work) -> None:
        self.med, self.gallery, self.work = med, gallery, work
        self._ids, self._mask = work.encode_texts(med.config.text, tokenizer, gallery.texts, med.device)
        self._lengths = self._mask.sum(1).cpu()
        # Of texts with the same tokens the first: what the others get is its scores, to the last digit. Else their rank
        # among each other would be that of rounding, which is another with other batches.
        first: dict[tuple[int, ...], int] = {}
        alike = [first.setdefault(tuple(row), place) for place, row in enumerate(self._ids.tolist())]
        self._alike = torch.tensor(alike)
        self._texts_at_once = TEXTS_TO_A_PICTURE * work.config.batch_size

    def similarities(self) -> Float[Tensor, "n t"]:
        """ITC similarity of every item with every text."""
        texts, count = [], len(self.gallery.texts)
        with Progress("texts", count, unit="texts") as progress:
            for start in range(0, count, TEXTS_TO_A_PICTURE * BLOCK):
                some = range(start, min(start + TEXTS_TO_A_PICTURE * BLOCK, count))
                part = self.work.tensors(f"texts-{start:07d}", partial(self._embed_texts, some))
                texts.append(part["embeddings"])
                progress.advance(len(some))
        items = []
        for start, block in self._blocks("pictures", self.work.block):
            part = self.work.tensors(f"pictures-{start:07d}", partial(self._embed_items, block))
            items.append(part["embeddings"])
        scores = similarities(torch.cat(items).cpu(), torch.cat(texts).cpu())[:, self._alike]
        check_finite(scores, "ITC similarities")
        return scores

    def _blocks(self, name: str, size: int) -> Iterator[tuple[int, Sequence[int]]]:
        """The places of the items in blocks, with a live line."""
        unit = "videos" if self.work.benchmark.is_video else "pictures"
        with Progress(name, len(self.gallery.items), unit=unit) as progress:
            for start, block in blocks_of(range(len(self.gallery.items)), size):
                yield start, block
                progress.advance(len(block))

    def _embed_texts(self, texts: range) -> dict[str, Tensor]:
        in_order = self._lengths[texts.start : texts.stop].argsort()  # texts of like lengths have little padding
        parts = [self._tokens(some.tolist()) for some in torch.split(in_order + texts.start, self._texts_at_once)]
        embeddings = torch.cat([self.med.embed_text(ids, mask).float() for ids, mask in parts]).cpu()
        return {"embeddings": torch.empty_like(embeddings).index_copy(0, in_order, embeddings)}

    def _embed_items(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """An item's ITC embedding, of length 1; a video's is the mean of its frames' before that (section 5.6)."""
        embeddings = []
        for _, some in blocks_of(rows, self.work.items_at_once):
            each = self.med.project_image(self._frame_states(some))
            of_item = each.view(len(some), self.work.num_frames, -1).mean(1)
            embeddings.append(F.normalize(of_item.float(), dim=-1))
        return {"embeddings": torch.cat(embeddings)}

    def _frame_states(self, rows: Sequence[int]) -> Float[Tensor, "f p v"]:
        files = [self.gallery.items[row].file for row in rows]
        return self.med.encode_image(self.work.pixels(files, self.med.config.vision.image_size))

    def _tokens(self, texts: Sequence[int]) -> tuple[Int64[Tensor, "r l"], Int64[Tensor, "r l"]]:
        """Ids and mask of texts, no wider than the longest of them."""
        at = torch.as_tensor(list(texts))
        longest = int(self._lengths[at].max())
        at = at.to(self._ids.device)
        return self._ids[at, :longest], self._mask[at, :longest]

    def match(
        self, scores: Float[Tensor, "n t"] | None, top_k: int
    ) -> tuple[Bool[Tensor, "n t"], Bool[Tensor, "n t"], Matched]:
        """The first `top_k` texts of each item, items of each text, and ITM logits of those and of the drawn pairs.

        A pair that is among the first both ways is computed once.
        """
        shape = len(self.gallery.items), len(self.gallery.texts)
        of_item = of_text = torch.zeros(shape, dtype=torch.bool)
        if top_k and scores is not None:
            of_item, of_text = first_of(scores, top_k), first_of(scores.T, top_k).T
        wanted = of_item | of_text
        for row in range(shape[0]):
            wanted[row, [*self.gallery.own[row], *self.gallery.wrong(row, self.work.config.seed)]] = True
        logits = []
        for start, block in self._blocks("matching", max(1, self.work.block // MATCHED_TO_A_BLOCK)):
            part = self.work.tensors(f"matching-{start:07d}", partial(self._match_block, block, wanted, scores))
            logits.append(part["logits"].float().cpu())
        rows, texts = wanted.nonzero().unbind(1)
        matched = Matched(rows, texts, torch.cat(logits))
        check_finite(matched.logits, "ITM logits")
        return of_item, of_text, matched

    def _match_block(
        self, block: Sequence[int], wanted: Bool[Tensor, "n t"], scores: Float[Tensor, "n t"] | None
    ) -> dict[str, Tensor]:
        """`logits` [P, 2] of the wanted pairs of these items, in the order of `wanted.nonzero()`."""
        found = []
        for _, some in blocks_of(block, self.work.items_at_once):
            states = as_videos(self._frame_states(some), self.work.num_frames)
            for row, own in zip(some, torch.split(states, 1), strict=True):
                asked = self._alike[wanted[row].nonzero()[:, 0]].tolist()
                places = {text: place for place, text in enumerate(dict.fromkeys(asked))}
                texts, alike = torch.tensor(list(places)), torch.tensor([places[text] for text in asked])
                in_order = self._lengths[texts].argsort()
                cosines = None if scores is None else scores[row, texts[in_order]]
                logits = self._match_item(own, texts[in_order], cosines)
                in_place = torch.empty_like(logits).index_copy(0, in_order.to(logits.device), logits)
                found.append(in_place[alike.to(logits.device)])
        return {"logits": torch.cat(found)}

    def _match_item(
        self, states: Float[Tensor, "1 q v"], texts: Int64[Tensor, " r"], cosines: Float[Tensor, " r"] | None
    ) -> Float[Tensor, "r 2"]:
        """ITM logits of one item with texts, its keys and values computed once."""
        keys = self.med.text.image_keys_values(states, "bidirectional")
        logits = []
        for start, some in blocks_of(texts.tolist(), self._texts_at_once):
            known = None if cosines is None else cosines[start : start + len(some)].to(states.device)
            logits.append(self.med.match(states, *self._tokens(some), None, keys, known).float())
        return torch.cat(logits)


def matching_figures(gallery: Gallery, matched: Matched, work: Work) -> dict[str, float]:
    """itm_auc, and itm_precision and itm_recall at the threshold, over own texts and drawn ones."""
    scores = matched.logits.softmax(-1)[:, 1].tolist()
    of_pair = dict(zip(zip(matched.rows.tolist(), matched.texts.tolist(), strict=True), scores, strict=True))
    rows = range(len(gallery.items))
    right = [of_pair[row, text] for row in rows for text in gallery.own[row]]
    wrong = [of_pair[row, text] for row in rows for text in gallery.wrong(row, work.config.seed)]
    if not wrong:
        return {}
    limit = work.config.itm_threshold
    taken, false = sum(one >= limit for one in right), sum(one >= limit for one in wrong)
    precision = taken / (taken + false) if taken + false else 0.0
    return {"itm_auc": area_under_curve(right, wrong), "itm_precision": precision, "itm_recall": taken / len(right)}
