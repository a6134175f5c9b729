"""Texts as BLIP's released code shows them to a model: what is stored stays as it was written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blip_bootstrap.config import TextConfig
    from blip_bootstrap.config.section import Normalise
    from blip_training.model.med import Med


MARKS = '.!"()*#:;~'
"""The marks that are taken out; commas, question marks, apostrophes, hyphens and slashes stay."""

CAPTION_WORDS, QUESTION_WORDS = 30, 50

TO_SPACES = str.maketrans(dict.fromkeys(MARKS, " "))

TO_NOTHING = str.maketrans(dict.fromkeys(MARKS))


def normalise_caption(text: str) -> str:
    """Lower case, marks as spaces, one space between words, the first 30 words: for LM, ITC and ITM alike."""
    return " ".join(text.lower().translate(TO_SPACES).split()[:CAPTION_WORDS])


def normalise_question(text: str) -> str:
    """Lower case, marks left out, one space between words, the first 50 words. Answers stay as they are."""
    return " ".join(text.lower().translate(TO_NOTHING).split()[:QUESTION_WORDS])


def captions_as_seen(config: TextConfig, texts: Sequence[str]) -> list[str]:
    """Captions as a model of this configuration reads them."""
    return [normalise_caption(text) for text in texts] if config.normalise == "blip" else list(texts)


def questions_as_seen(config: TextConfig, texts: Sequence[str]) -> list[str]:
    """Questions as a model of this configuration reads them."""
    return [normalise_question(text) for text in texts] if config.normalise == "blip" else list(texts)


def set_normalise(med: Med, how: Normalise) -> None:
    """Have `med` read texts so; `auto`: as its checkpoint says."""
    if how != "auto":
        text = med.config.text.model_copy(update={"normalise": how})
        med.config = med.config.model_copy(update={"text": text})
