"""The official accuracy of VQA (Antol et al. 2015), with its evaluation's own normalisation of answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

ENOUGH_PEOPLE = 3

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

ARTICLES = frozenset({"a", "an", "the"})

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)} | {"none": "0"}

_APOSTROPHES = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
"""Words that get an apostrophe back where one of theirs is missing."""

_COMMA_IN_NUMBER = re.compile(r"\d,\d")

_FULL_STOP = re.compile(r"\.(?!\d)")


def _without_one(word: str) -> Iterator[str]:
    """The word without one of its apostrophes, each in turn."""
    return (word[:at] + word[at + 1 :] for at, letter in enumerate(word) if letter == "'")


CONTRACTIONS = {short: word for word in _APOSTROPHES.split() for short in _without_one(word)} | {
    "somebody'd": "somebodyd"
}
"""As in the official evaluation, which takes the apostrophe of somebody'd away."""


def normalise_official(answer: str) -> str:
    """An answer as the official evaluation compares it.

    Punctuation marks beside a space are removed, others become a space (all are removed where a number has a comma);
    then lower case, number words up to ten as digits, no articles, and apostrophes of contractions put back.
    """
    has_comma, cleaned = _COMMA_IN_NUMBER.search(answer) is not None, answer
    for mark in PUNCTUATION:
        removed = has_comma or f"{mark} " in answer or f" {mark}" in answer
        cleaned = cleaned.replace(mark, "" if removed else " ")
    words = [DIGITS.get(word, word) for word in _FULL_STOP.sub("", cleaned).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def official_accuracy(answer: str, given: Mapping[str, float]) -> float:
    """The accuracy (0..1) of one answer to a question that people gave the answers `given`, with their numbers.

    It is the mean over the people of min(1, n / 3), n being how many of the *others* gave the answer. Where all people
    said the same, answers are compared as they are, but for case. Where only one answered, it is 1 for the same answer.
    """
    people, said = _counted(given, _on_one_line), _on_one_line(answer)
    if len(people) > 1 or sum(people.values()) == 1:
        said, people = normalise_official(said), _counted(people, normalise_official)
    counts = _counted(people, str.lower)
    total, agreeing = sum(counts.values()), counts.get(said.lower(), 0.0)
    if total == 1:
        return agreeing
    of_agreeing, of_others = min(1.0, (agreeing - 1) / ENOUGH_PEOPLE), min(1.0, agreeing / ENOUGH_PEOPLE)
    return (agreeing * of_agreeing + (total - agreeing) * of_others) / total if agreeing else 0.0


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _counted(given: Mapping[str, float], changed: Callable[[str], str]) -> dict[str, float]:
    """The numbers of people by their answers as `changed`."""
    found: dict[str, float] = {}
    for text, count in given.items():
        found[changed(text)] = found.get(changed(text), 0.0) + count
    return found
