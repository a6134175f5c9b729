"""How far the texts about an image agree: a score of each by the words that it shares with the captioners' others."""

from __future__ import annotations

import re
from collections import Counter

from blip_pipelines.scoring.rows import Texts

_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> Counter[str]:
    """The words of a text with their numbers: runs of letters and digits, in lower case."""
    return Counter(_WORD.findall(text.lower()))


def word_f1(words: Counter[str], others: Counter[str]) -> float:
    """The F1 (0..1) of two texts' words, each as often as it stands there; 0 where they share none."""
    return 2 * (words & others).total() / ((words.total() + others.total()) or 1)


def set_agreement(rows: Texts) -> None:
    """Set `agreement` of each text: its mean word F1 with the image's other synthetic texts, whoever wrote them.

    Blank texts and those stored cut have none, and do not count among the others.
    """
    for of_image in rows:
        known = [(row, words_of(row.caption)) for row in of_image if row.is_read]
        written = [(row, words) for row, words in known if row.source == "synthetic"]
        for row, words in known:
            row.agreement = _mean([word_f1(words, theirs) for other, theirs in written if other is not row])


def _mean(scores: list[float]) -> float | None:
    return sum(scores) / len(scores) if scores else None
