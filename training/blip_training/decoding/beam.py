"""Beam search that stops as transformers' `generate` does with early_stopping off and length penalty 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from blip_training.decoding.incremental import IncrementalDecoder
from blip_training.decoding.sampling import penalise

if TYPE_CHECKING:
    from torch import Tensor

    from blip_training.decoding.sampler import Sampler
    from blip_training.model.med import Med


NEVER = -1.0e9


@dataclass
class Beams:
    """M texts for each of B images: tokens [B, M, T], scores of the search and log-probabilities [B, M]."""

    tokens: Tensor
    scores: Tensor
    logprobs: Tensor

    def best(self, count: int) -> tuple[Beams, Tensor]:
        """The `count` texts of highest score, best first, and their places [B, count]."""
        places = self.scores.topk(count, dim=1).indices
        return self.at(places), places

    def at(self, places: Tensor) -> Beams:
        """The texts at these places [B, N]."""
        wide = places[:, :, None].expand(-1, -1, self.tokens.shape[2])
        return Beams(self.tokens.gather(1, wide), self.scores.gather(1, places), self.logprobs.gather(1, places))

    def of(self, images: Tensor) -> Beams:
        """The texts of these images."""
        return Beams(self.tokens[images], self.scores[images], self.logprobs[images])

    def with_scores(self, scores: Tensor) -> Beams:
        """These texts with other scores."""
        return Beams(self.tokens, scores, self.logprobs)


def search_beams(
    med: Med, states: Tensor, start: list[int], sep_id: int, sampler: Sampler, num_best: int
) -> list[tuple[list[int], float]]:
    """The `num_best` texts of each image, best first: tokens from [DEC] on, and log-probability.

    A finished text's score is its log-probability divided by its number of tokens after the prompt. An image leaves the
    batch once no unfinished text can overtake its worst finished one.
    """
    size, num_images = sampler.num_beams, states.shape[0]
    decoder = IncrementalDecoder(med, states, sampler.max_tokens, size)
    writing, done = _empty(num_images, start, sep_id, sampler, states.device)
    results: list[list[tuple[list[int], float]]] = [[] for _ in range(num_images)]
    images = torch.arange(num_images, device=states.device)
    logits = decoder.prefill(start).repeat_interleave(size, dim=0)
    decoder.repeat(size)
    for at in range(len(start), sampler.max_tokens):
        continued, parents = _continue(writing, logits, at, sep_id, sampler)
        last = at + 1 == sampler.max_tokens
        ended = (continued.tokens[:, :, at] == sep_id) | last
        writing, places = continued.with_scores(continued.scores + ended * NEVER).best(size)
        done = _add_done(done, continued, ended, at + 1 - len(start))
        open_ = writing.scores[:, 0] / (at + 1 - len(start)) > done.scores[:, -1]
        closed = torch.ones_like(open_) if last else ~open_
        for place in closed.nonzero()[:, 0].tolist():
            results[int(images[place])] = _rows(done, place, num_best)
        if bool(closed.all()):
            break
        left = (~closed).nonzero()[:, 0]
        rows = (left[:, None] * size + parents.gather(1, places)[left]).flatten()
        decoder.take(rows, left)
        writing, done, images = writing.of(left), done.of(left), images[left]
        logits = decoder.step(writing.tokens[:, :, at].flatten())
    return [row for result in results for row in result]


def _empty(
    num_images: int, start: list[int], sep_id: int, sampler: Sampler, device: torch.device
) -> tuple[Beams, Beams]:
    """The beams to start from: the prompt, with a score that never wins in all but the first; and no finished text."""
    tokens = torch.full((num_images, sampler.num_beams, sampler.max_tokens), sep_id, device=device)
    tokens[:, :, : len(start)] = torch.tensor(start, device=device)
    logprobs = torch.zeros(tokens.shape[:2], device=device)
    never = torch.full_like(logprobs, NEVER)
    first = never.clone()
    first[:, 0] = 0.0
    return Beams(tokens, first, logprobs), Beams(tokens.clone(), never, logprobs.clone())


def _continue(writing: Beams, logits: Tensor, at: int, sep_id: int, sampler: Sampler) -> tuple[Beams, Tensor]:
    """The 2 x beams best continuations of each image, and the beam that each continues."""
    num_images, size, _ = writing.tokens.shape
    own = torch.log_softmax(logits, dim=1)
    flat = writing.tokens[:, :, :at].flatten(0, 1)
    scores = penalise(own, flat, sampler.repetition_penalty, sep_id, at < sampler.min_tokens)
    vocabulary = own.shape[1]
    totals = (scores.view(num_images, size, vocabulary) + writing.scores[:, :, None]).flatten(1)
    scores, places = totals.topk(2 * size, dim=1)
    parents, tokens = places // vocabulary, places % vocabulary
    continued = writing.at(parents)
    continued.tokens[:, :, at] = tokens
    logprobs = continued.logprobs + own.view(num_images, -1).gather(1, places)
    return Beams(continued.tokens, scores, logprobs), parents


def _add_done(done: Beams, continued: Beams, ended: Tensor, length: int) -> Beams:
    """The best finished texts, old and new; one that ends outside the best `beams` continuations does not count."""
    size = done.tokens.shape[1]
    counts = ended & (torch.arange(ended.shape[1], device=ended.device) < size)
    scores = torch.where(counts, continued.scores / length, NEVER)
    merged = Beams(
        torch.cat([done.tokens, continued.tokens], dim=1),
        torch.cat([done.scores, scores], dim=1),
        torch.cat([done.logprobs, continued.logprobs], dim=1),
    )
    return merged.best(size)[0]


def _rows(done: Beams, image: int, num_best: int) -> list[tuple[list[int], float]]:
    tokens, logprobs = done.tokens[image, :num_best].tolist(), done.logprobs[image, :num_best].tolist()
    return list(zip(tokens, logprobs, strict=True))
