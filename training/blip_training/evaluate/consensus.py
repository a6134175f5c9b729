"""The choice of one caption among candidates: the one that agrees most with other captions drawn for the picture.

This is minimum Bayes risk decoding with CIDEr as the gain: the most likely text need not say what most likely texts
say. ITC similarity to the picture may be added, by which BLIP-2 (Li et al. 2023) ranks candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pycocoevalcap.cider.cider import Cider

from blip_training.evaluate.caption_metrics import ptb_words


def agreement(candidates: Mapping[str, Sequence[str]], drawn: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
    """The CIDEr (0..10) of each key's candidates with the texts drawn for that key as references.

    Document frequencies are those of the texts drawn for all keys.
    """
    places = [(key, at) for key, texts in candidates.items() for at in range(len(texts))]
    references = {key: [" ".join(ptb_words(text)) for text in texts] for key, texts in drawn.items()}
    given = {place: [" ".join(ptb_words(candidates[place[0]][place[1]]))] for place in places}
    _, scores = Cider().compute_score({place: references[place[0]] for place in places}, given)
    found: dict[str, list[float]] = {key: [] for key in candidates}
    for (key, _), score in zip(places, scores, strict=True):
        found[key].append(float(score))
    return found


def choose(
    candidates: Mapping[str, Sequence[str]],
    drawn: Mapping[str, Sequence[str]],
    similarities: Mapping[str, Sequence[float]] | None = None,
    itc_weight: float = 0.0,
) -> dict[str, str]:
    """Each key's best candidate by agreement plus `itc_weight` times ITC similarity (-1..1); the first of equals."""
    chosen: dict[str, str] = {}
    for key, scores in agreement(candidates, drawn).items():
        similar = similarities[key] if similarities else [0.0] * len(scores)
        total = [score + itc_weight * cosine for score, cosine in zip(scores, similar, strict=True)]
        chosen[key] = candidates[key][total.index(max(total))]
    return chosen
