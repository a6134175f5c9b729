"""Normalises texts for a model as BLIP's released code does; stored texts stay as they were written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blip_bootstrap.config import TextConfig
    from blip_bootstrap.settings.section import Normalise
    from blip_training.model.med import Med


MARKS = '.!"()*#:;~'
"""The marks that are removed; commas, question marks, apostrophes, hyphens and slashes stay."""

CAPTION_WORDS, QUESTION_WORDS = 30, 50

TO_SPACES = str.maketrans(dict.fromkeys(MARKS, " "))

TO_NOTHING = str.maketrans(dict.fromkeys(MARKS))


def normalise_caption(text: str, max_words: int = CAPTION_WORDS) -> str:
    """A caption in lower case, marks replaced by spaces, single spaces, at most 30 words; for LM, ITC and ITM."""
    return " ".join(text.lower().translate(TO_SPACES).split()[:max_words])


def normalise_question(text: str) -> str:
    """A question in lower case, marks removed, single spaces, at most 50 words. Answers are not normalised."""
    return " ".join(text.lower().translate(TO_NOTHING).split()[:QUESTION_WORDS])


def captions_as_seen(config: TextConfig, texts: Sequence[str], max_words: int = CAPTION_WORDS) -> list[str]:
    """Captions as a model of this configuration reads them: normalised if it was trained so."""
    return [normalise_caption(text, max_words) for text in texts] if config.normalise == "blip" else list(texts)


def questions_as_seen(config: TextConfig, texts: Sequence[str]) -> list[str]:
    """Questions as a model of this configuration reads them: normalised if it was trained so."""
    return [normalise_question(text) for text in texts] if config.normalise == "blip" else list(texts)


def set_normalise(med: Med, how: Normalise) -> None:
    """Set how `med` reads texts; `auto` leaves it as its checkpoint says."""
    if how != "auto":
        text = med.config.text.model_copy(update={"normalise": how})
        med.config = med.config.model_copy(update={"text": text})
