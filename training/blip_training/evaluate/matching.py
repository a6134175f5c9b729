"""How well a model matches held-out pictures and texts: retrieval by ITC, re-ranked by ITM or LM, and ITM's AUC."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from blip_bootstrap.config import EvaluateConfig
from blip_training.data.held_out import HeldOut, chunks
from blip_training.data.tokenizer import Tokenizer
from blip_training.evaluate.likelihood import Likelihoods, text_gains
from blip_training.evaluate.retrieval import area_under_curve, best_ranks, first_of, recalls, similarities
from blip_training.model.med import Med
from blip_training.objective.micro_batches import encode_texts

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64, UInt8

    from blip_training.model.cross_attention import KeyValue


RERANKED_ABOVE = 100.0


@dataclass(frozen=True)
class Judge:
    """The decoder that re-ranks with `rerank_by: lm`, and pictures of its training to estimate log p(text) by."""

    med: Med
    tokenizer: Tokenizer
    prompt: str
    references: HeldOut


def measure_matching(
    med: Med, tokenizer: Tokenizer, data: HeldOut, config: EvaluateConfig, judge: Judge | None = None
) -> dict[str, float]:
    """tr1 tr5 tr10, ir1 ir5 ir10 and itm_auc (0..1), each also as `<key>_<domain>`.

    Within a domain, too, ranks are among all texts, or all pictures, of the set. With `rerank_top_k` the first K by ITC
    are re-ranked by ITM logit plus ITC similarity, as BLIP does, or by the likelihoods of `judge` plus ITC similarity.
    No more than one batch of image states is held in memory.
    """
    scorer = Matcher(med, tokenizer, data, config, judge)
    scores = scorer.similarities()
    by_image, by_text = scores, scores.T
    if config.rerank_top_k:
        by_image, by_text = scorer.rerank(scores)
    right = right_pairs(data)
    image_ranks, text_ranks = best_ranks(by_image, right), best_ranks(by_text, right.T)
    domains = {f"_{domain}": rows for domain, rows in data.domains.items()}
    metrics: dict[str, float] = {}
    for suffix, rows in {"": list(range(len(data.pictures))), **domains}.items():
        texts = right[rows].any(0).nonzero()[:, 0]
        found = recalls(image_ranks[rows], "tr") | recalls(text_ranks[texts], "ir")
        pairs = [scorer.pairs[i] for i in rows if i in scorer.pairs]
        if pairs:
            found["itm_auc"] = area_under_curve([s for p, _ in pairs for s in p], [s for _, n in pairs for s in n])
        metrics |= {f"{key}{suffix}": value for key, value in found.items()}
    return metrics


def text_similarities(
    med: Med, tokenizer: Tokenizer, data: HeldOut, config: EvaluateConfig, texts: Mapping[str, Sequence[str]]
) -> dict[str, list[float]]:
    """The ITC similarity (-1..1) of each picture with its own `texts`; both are by the picture's key."""
    found: dict[str, list[float]] = {}
    for rows, pixels in data.pixels(med.config.vision.image_size, config.batch_size):
        images = embed_pictures(med, med.encode_image(pixels), pixels, config.mirrored)
        keys = [data.pictures[i].key for i in rows]
        ids, mask = encode_texts(med, tokenizer, [text for key in keys for text in texts[key]])
        of_picture = torch.tensor([at for at, key in enumerate(keys) for _ in texts[key]], device=images.device)
        cosines = (images[of_picture] * med.embed_text(ids, mask)).sum(1).tolist()
        for key in keys:
            found[key], cosines = cosines[: len(texts[key])], cosines[len(texts[key]) :]
    return found


def embed_pictures(
    med: Med, states: Float[Tensor, "b p v"], pixels: UInt8[Tensor, "b 3 h w"], mirrored: bool
) -> Float[Tensor, "b e"]:
    """ITC embeddings, of length 1, of pictures whose image states are known.

    With `mirrored` they are the mean of the embeddings of picture and mirror image.
    """
    images = med.embed_image(states)
    return F.normalize(images + med.embed_image(med.encode_image(pixels.flip(-1))), dim=1) if mirrored else images


def right_pairs(data: HeldOut) -> Bool[Tensor, "n t"]:
    """Which of the set's T texts are right for each of its N pictures."""
    right = torch.zeros(len(data.pictures), len(data.texts), dtype=torch.bool)
    for row, own in enumerate(data.own):
        right[row, own] = True
    return right


class Matcher:
    """ITC and ITM scores of one model on one set; each picture is encoded once, and once more to re-rank.

    `pairs` holds for each picture the ITM scores (0..1) of its own texts, and of as many random texts of others.
    """

    def __init__(
        self, med: Med, tokenizer: Tokenizer, data: HeldOut, config: EvaluateConfig, judge: Judge | None = None
    ) -> None:
        self.med, self.data, self.config, self.judge = med, data, config, judge
        self._ids, self._mask = encode_texts(med, tokenizer, data.texts)
        self.pairs: dict[int, tuple[list[float], list[float]]] = {}

    def similarities(self) -> Float[Tensor, "n t"]:
        """ITC similarity of every picture with every text; fills `pairs`."""
        rng = random.Random(self.config.seed)
        texts, images = self._text_embeddings, []
        for rows, pixels in self.data.pixels(self.med.config.vision.image_size, self.config.batch_size):
            states = self.med.encode_image(pixels)
            images.append(embed_pictures(self.med, states, pixels, self.config.mirrored))
            self._score_pairs(rows, states, similarities(images[-1], texts), rng)
        return similarities(torch.cat(images), texts)

    @cached_property
    def _text_embeddings(self) -> Float[Tensor, "t e"]:
        batches = chunks(range(len(self.data.texts)), self.config.batch_size)
        return torch.cat([self.med.embed_text(*self._tokens(rows)) for rows in batches])

    def _tokens(self, texts: Sequence[int]) -> tuple[Int64[Tensor, "r l"], Int64[Tensor, "r l"]]:
        """Ids and mask of texts, no wider than the longest of them."""
        mask = self._mask[texts]
        longest = int(mask.sum(1).max())
        return self._ids[texts, :longest], mask[:, :longest]

    def _score_pairs(self, rows: list[int], states: Tensor, cosines: Tensor, rng: random.Random) -> None:
        own = [(i, text) for i in rows for text in self.data.own[i]]
        wrong = [(i, _other_text(self.data, i, rng)) for i, _ in own if len(self.data.own[i]) < len(self.data.texts)]
        own = [pair for pair in own if len(self.data.own[pair[0]]) < len(self.data.texts)]
        for pairs, column in ((own, 0), (wrong, 1)):
            at, text_of = [i - rows[0] for i, _ in pairs], [text for _, text in pairs]
            logits = self._match(states, at, text_of, cosines[at, text_of])
            for (i, _), score in zip(pairs, logits.softmax(1)[:, 1].tolist(), strict=True):
                self.pairs.setdefault(i, ([], []))[column].append(score)

    def _match(
        self,
        states: Tensor,
        image_of_row: list[int] | None,
        texts: list[int],
        cosines: Float[Tensor, " r"],
        keys: list[KeyValue] | None = None,
    ) -> Float[Tensor, "r 2"]:
        """ITM logits of pair r: text `texts[r]` and row `image_of_row[r]` of `states`; None: `states` are of one image.

        `cosines` are the pairs' ITC similarities; `keys` the images' keys and values, if known.
        """
        logits = [torch.zeros(0, 2)]
        for rows in chunks(range(len(texts)), self.config.batch_size):
            ids, mask = self._tokens([texts[i] for i in rows])
            at = None if image_of_row is None else torch.tensor(image_of_row, device=states.device)[rows]
            known = cosines[rows].to(states.device)
            logits.append(self.med.match(states, ids, mask, at, keys, known).cpu())
        return torch.cat(logits)

    def rerank(self, scores: Float[Tensor, "n t"]) -> tuple[Float[Tensor, "n t"], Float[Tensor, "t n"]]:
        """Scores with each picture's first `rerank_top_k` texts re-ranked above all others, and each text's pictures.

        A pair that is among the first both ways is computed once, and so are a picture's keys and values.
        """
        of_image, of_text = first_of(scores, self.config.rerank_top_k), first_of(scores.T, self.config.rerank_top_k).T
        wanted = of_image | of_text
        judged = (
            scores + RERANKED_ABOVE + (self._gains(wanted, self.judge) if self.judge else self._logits(wanted, scores))
        )
        return torch.where(of_image, judged, scores), torch.where(of_text, judged, scores).T

    def _logits(self, wanted: Bool[Tensor, "n t"], scores: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
        """ITM logits of the wanted pairs; 0 for other pairs."""
        found, lengths = torch.zeros_like(scores), self._mask.sum(1).cpu()
        for rows, pixels in self.data.pixels(self.med.config.vision.image_size, self.config.batch_size):
            for row, states in zip(rows, torch.split(self.med.encode_image(pixels), 1), strict=True):
                texts = wanted[row].nonzero()[:, 0]
                texts = texts[lengths[texts].argsort()]
                keys = self.med.text.image_keys_values(states, "bidirectional")
                found[row, texts] = self._match(states, None, texts.tolist(), scores[row, texts], keys)[:, 1]
        return found

    def _gains(self, wanted: Bool[Tensor, "n t"], judge: Judge) -> Float[Tensor, "n t"]:
        """Log-likelihood gains of the wanted pairs by the decoder (`text_gains`), times `lm_weight`."""
        size = self.config.batch_size
        likelihoods = Likelihoods(judge.med, judge.tokenizer, self.data.texts, judge.prompt, size)
        images = [
            self.med.embed_image(self.med.encode_image(pixels))
            for _, pixels in judge.references.pixels(self.med.config.vision.image_size, size)
        ]
        similar = similarities(torch.cat(images), self._text_embeddings)
        gains = text_gains(likelihoods, self.data, wanted, judge.references, similar, self.config.lm_references)
        return self.config.lm_weight * gains


def _other_text(data: HeldOut, row: int, rng: random.Random) -> int:
    """A random text that is not the picture's own."""
    while (text := rng.randrange(len(data.texts))) in data.own[row]:
        pass
    return text
