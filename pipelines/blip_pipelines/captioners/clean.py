"""The rule that takes off what chat models put around a caption."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

CleanRule = Literal["default", "none"]

VERSION = 1
"""Of the rule `default`; it stands beside the texts, so that those of two versions are told apart."""

_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)

_MARKUP = re.compile(r"(\*\*|__|`+|^\s*#+\s+|^\s*[-*]\s+)", re.MULTILINE)

_ANSWER = re.compile(
    r"^\s*(?:(?:sure|certainly|of course|okay|ok)[!,.:]\s*)?"
    r"(?:here(?:'s| is)\s+(?:a|an|the|one|your)\b[^:\n]{0,40}"
    r"\b(?:caption|description|sentence|text)\b[^:\n]{0,40}:\s*)?"
    r"(?:(?:caption|description|answer|alt[ -]?text|image description)\s*:\s*)?",
    re.IGNORECASE,
)

_SHOWS = re.compile(
    r"^\s*(?:the|this|an)\s+(?:provided\s+|given\s+)?(?:image|picture|photo|photograph)\s+"
    r"(?:(?:clearly\s+)?(?:shows|depicts|features|displays|captures|contains|presents|portrays|showcases|illustrates)"
    r"|is\s+of|is\s+a\s+(?:photo|picture|photograph|close-up)\s+of)\s+",
    re.IGNORECASE,
)

_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}


def cleaned(text: str, rule: CleanRule) -> str:
    """A captioner's answer as a caption, whitespace folded.

    `default` takes off, in this order: thoughts in <think>, markup, beginnings of an answer (`Description:`, `Sure!
    Here is a caption:`), quotes around the whole, and `The image shows`, after which the first letter is made large
    where it was. What would leave nothing is not taken off.
    """
    if rule == "default":
        for step in _STEPS:
            text = step(text) if _fold(step(text)) else text
    return _fold(text)


def _fold(text: str) -> str:
    return " ".join(text.split())


def _without_quotes(text: str) -> str:
    bare = text.strip()
    closing = _QUOTES.get(bare[:1])
    is_whole = closing and len(bare) > 1 and bare.endswith(closing) and closing not in bare[1:-1]
    return bare[1:-1] if is_whole else text


def _without_shows(text: str) -> str:
    found = _SHOWS.match(text)
    if not found:
        return text
    rest = text[found.end() :]
    return rest[:1].upper() + rest[1:] if found[0].lstrip()[:1].isupper() else rest


_STEPS: tuple[Callable[[str], str], ...] = (
    lambda text: _THOUGHT.sub(" ", text),
    lambda text: _MARKUP.sub("", text),
    lambda text: _ANSWER.sub("", text, count=1),
    _without_quotes,
    _without_shows,
)
