"""Words of one kind, learned from a human set's captions: which word may stand in another's place and say otherwise."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

LEAST_COUNT = 3
"""A word in fewer captions has too few contexts to tell its kind by."""

LEAST_SHARED, LEAST_OVERLAP = 2, 0.1
"""Contexts that two words of one kind share: so many, and so large a part of the geometric mean of their numbers."""

MOST_WORDS_OF_A_CONTEXT = 300
"""A context of more words ("the ... of") tells no kind, and pairs of all its words would be many."""

NEAREST = 16
"""Words of its kind that a word has at most."""

TELLING, AGREED = 2.0, 0.25
"""A word tells pictures apart where a caption has it so many times as often if another caption of its picture has it,
or so large a part of the way from chance to always (kappa): a word of most captions cannot be twice as often."""

TOGETHER = 1.0
"""Words that one picture's captions have together this many times as often as by chance may both be true of it."""

COLOURS = (
    ("red", "crimson"), ("orange",), ("yellow", "golden", "gold"), ("green",), ("blue", "navy", "turquoise", "teal"),
    ("purple", "violet"), ("pink",), ("brown", "tan", "beige"), ("black",), ("white",), ("grey", "gray", "silver"),
)  # fmt: skip

NUMBERS = (
    ("two",), ("three",), ("four",), ("five",), ("six",), ("seven",), ("eight",), ("nine",), ("ten",),
)  # fmt: skip

PLACES = (
    (("left",), ("right",)), (("above", "over"), ("below", "under", "beneath", "underneath")),
    (("top",), ("bottom",)), (("front",), ("back", "behind")), (("inside",), ("outside",)),
)  # fmt: skip

SIZES = (
    (("small", "little", "tiny"), ("large", "big", "huge")), (("short",), ("tall", "long")), (("young",), ("old",)),
)  # fmt: skip

LISTS = (COLOURS, NUMBERS, *PLACES, *SIZES)
"""Each list is one kind; the words of one of its groups say about the same, and never stand for each other."""

CLOSED = frozenset(word for kind in LISTS if kind is not COLOURS for group in kind for word in group)
"""The words of lists that have no further words. There are more colours than any list has."""

ORDERED = frozenset({"left", "right", "above", "over", "below", "under", "beneath", "underneath", "behind", "front"})
"""Relations that are not true the other way round."""

SAYS_NOTHING = frozenset((
    "a", "an", "the", "this", "that", "these", "those", "there", "here", "it", "its", "his", "her", "their", "is",
    "are", "was", "were", "be", "been", "being", "has", "have", "do", "does", "of", "in", "on", "at", "to", "from",
    "by", "for", "with", "and", "or", "as", "while", "into", "onto", "near", "next", "up", "down", "out", "off",
    "who", "which", "some", "one",
))  # fmt: skip
"""Words that are never swapped, and not compared where too few captions tell whether they tell pictures apart."""


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return [found.group().lower() for found in WORD.finditer(text)]


class WordKinds:
    """The kinds of words of a human set, from the captions of each picture.

    Words in one of `LISTS` are of that kind. Other words, and colours, are of one kind where they stand in the same
    contexts (the word before and the word after), both tell pictures apart, and the captions of one picture have both
    no more often than by chance: so no two words that say the same. Two captions of a picture are needed to know that;
    with one, the lists alone remain.
    """

    def __init__(self, captions: Iterable[Sequence[str]]) -> None:
        texts = [[words_of(text) for text in own] for own in captions]
        self.counts = Counter(word for own in texts for text in own for word in set(text))
        self._num_captions = sum(map(len, texts))
        several = [own for own in texts if len(own) > 1]
        self._telling = _telling(several)
        self._num_pictures = len(several)
        self._pictures = _pictures_of(several, self._telling)
        self._listed = {word: (kind, group) for kind in LISTS for group in kind for word in group}
        self._near = _neighbours(texts, {word for word in self._telling if self._may_be_learned(word)})
        self.others = cache(self._others)

    def tells(self, word: str) -> bool:
        """Whether a word says what is in a picture, so that texts can be compared by it."""
        if word in self._listed:
            return True
        return self._telling.get(word, word not in SAYS_NOTHING)

    def _may_be_learned(self, word: str) -> bool:
        return word not in SAYS_NOTHING | CLOSED and self._telling[word]

    def _others(self, word: str) -> tuple[str, ...]:
        """The words of the human set that are of the word's kind and say something else, in order of the alphabet."""
        kind, own = self._listed.get(word, ((), ()))
        listed = {other for group in kind if group != own for other in group if other in self.counts}
        near = sorted(self._near.get(word, ()), key=lambda pair: (-pair[1], pair[0]))
        learned = {other for other, _ in near[:NEAREST] if not self._go_together(word, other)}
        return tuple(sorted(listed | learned.difference(*kind))) if word in self.counts else ()

    def _go_together(self, word: str, other: str) -> bool:
        """Whether the captions of one picture have both words more often than by chance."""
        one, two = self._pictures[word], self._pictures[other]
        return len(one & two) * self._num_pictures > TOGETHER * len(one) * len(two)


def _telling(texts: Sequence[Sequence[Sequence[str]]]) -> dict[str, bool]:
    """Whether each word of enough captions tells pictures apart."""
    count: Counter[str] = Counter()
    of_others: Counter[str] = Counter()
    both: Counter[str] = Counter()
    for own in texts:
        for word, times in Counter(word for text in own for word in set(text)).items():
            count[word] += times
            of_others[word] += times * (len(own) - 1)
            both[word] += times * (times - 1)
    total = sum(map(len, texts))
    return {word: _tells(both[word] / of_others[word], n / total) for word, n in count.items() if n >= LEAST_COUNT}


def _tells(share: float, by_chance: float) -> bool:
    """Whether a word is in `share` of the captions beside one that has it, surely more than in all captions."""
    return share >= TELLING * by_chance or share - by_chance > AGREED * (1 - by_chance)


def _pictures_of(texts: Sequence[Sequence[Sequence[str]]], words: Iterable[str]) -> dict[str, set[int]]:
    """The pictures whose captions have each of `words`, by number."""
    found: dict[str, set[int]] = {word: set() for word in words}
    for number, own in enumerate(texts):
        for word in {word for text in own for word in text}:
            if word in found:
                found[word].add(number)
    return found


def _neighbours(texts: Iterable[Sequence[Sequence[str]]], words: set[str]) -> dict[str, list[tuple[str, float]]]:
    """For each of `words` those that share contexts with it, and by what part."""
    of_context: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for own in texts:
        for text in own:
            for before, word, after in zip(["", *text], text, [*text[1:], ""], strict=False):
                if word in words:
                    of_context[before, after].add(word)
    contexts: Counter[str] = Counter()
    shared: Counter[tuple[str, str]] = Counter()
    for some in of_context.values():
        contexts.update(some)
        if len(some) <= MOST_WORDS_OF_A_CONTEXT:
            shared.update((one, other) for one in some for other in some if one != other)
    found: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)
    for (one, other), times in shared.items():
        overlap = times / math.sqrt(contexts[one] * contexts[other])
        if times >= LEAST_SHARED and overlap >= LEAST_OVERLAP:
            found[one].append((other, overlap))
    return found
