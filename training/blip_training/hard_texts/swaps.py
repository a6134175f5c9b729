"""Human captions made false by one swap: a word for another of its kind, or two words around a relation exchanged."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from re import Match

from blip_training.data.word_kinds import ORDERED, WORD, WordKinds, words_of

Swap = Mapping[int, Sequence[str]]
"""For each word of a caption that changes, by its place, the words among which the new one is drawn."""


class Swapper:
    """Swaps words of human captions by the kinds of words that the human set has."""

    def __init__(self, kinds: WordKinds) -> None:
        self.kinds = kinds

    def swap(self, text: str, captions: Sequence[str], rng: random.Random) -> str | None:
        """A caption after one swap; None where no swap is sure to make it false.

        `captions` are all human captions of the picture. The word that comes in is drawn by how often the human set has
        it, and stands in no other caption of the picture; the result is none of its captions.
        """
        found = list(WORD.finditer(text))
        swaps = list(self._swaps(text, [one.group().lower() for one in found], captions))
        known = [words_of(one) for one in captions]
        for swap in rng.sample(swaps, len(swaps)):
            made = _replaced(text, found, {at: self._drawn(words, rng) for at, words in swap.items()})
            if words_of(made) not in known:
                return made
        return None

    def can_swap(self, text: str, captions: Sequence[str]) -> bool:
        """Whether `swap` finds a text."""
        return self.swap(text, captions, random.Random(0)) is not None

    def _swaps(self, text: str, words: Sequence[str], captions: Sequence[str]) -> Iterator[Swap]:
        elsewhere = {word for other in captions if other != text for word in words_of(other)}
        for at, word in enumerate(words):
            if others := [other for other in self.kinds.others(word) if other not in elsewhere]:
                yield {at: others}
        for first, second in self._around_relations(words):
            yield {first: [words[second]], second: [words[first]]}

    def _drawn(self, words: Sequence[str], rng: random.Random) -> str:
        return rng.choices(words, [self.kinds.counts[word] for word in words])[0]

    def _around_relations(self, words: Sequence[str]) -> Iterator[tuple[int, int]]:
        """The places of two words of one kind with a relation between them that is not true the other way round."""
        relations = [at for at, word in enumerate(words) if word in ORDERED]
        for i in range(relations[-1] if relations else 0):
            for j in range(i + 1, len(words)):
                if any(i < at < j for at in relations) and words[j] in self.kinds.others(words[i]):
                    yield i, j


def _replaced(text: str, found: Sequence[Match[str]], new: Mapping[int, str]) -> str:
    """The text with the words at some places replaced; `a` and `an` before them follow, and so does a capital."""
    parts, end = [], 0
    for at, one in enumerate(found):
        word = new.get(at)
        if word is None and at + 1 in new and one.group().lower() in ("a", "an"):
            word = "an" if new[at + 1][0] in "aeiou" else "a"
        if word and one.group()[0].isupper():
            word = word.capitalize()
        parts += [text[end : one.start()], word or one.group()]
        end = one.end()
    return "".join([*parts, text[end:]])
