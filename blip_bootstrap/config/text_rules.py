"""Rules over web texts, which run before any model."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from blip_bootstrap.settings.section import Count, Fraction, NonNegative, Section, check_at_most

RuleName = Literal[
    "boilerplate", "file_name", "text_length", "repeated_words", "language", "contact_details", "few_letters"
]

PRESETS: Mapping[str, tuple[RuleName, ...]] = {
    "cc12m": ("boilerplate", "file_name", "text_length", "repeated_words", "language")
}
"""cc12m: what of the text filters of Conceptual 12M (arXiv 2102.08981, section 2.1) needs no tagger of parts of speech:
3 to 256 words, and at most a fifth of repeated words, both of which are the settings' defaults; in English."""


class TextRulesConfig(Section):
    """Which web texts become no pairs whatever the models think of them; the texts themselves stay as they are.

    In place of the section, the names of rules or a preset can be given: `text_rules: cc12m`, `text_rules: [language]`.
    """

    rules: tuple[RuleName, ...] = Field(
        (),
        description="the rules that are run, each of which is the reason of what it drops, or the preset cc12m: "
        "boilerplate, file_name, text_length, repeated_words and language",
    )
    min_words: NonNegative = Field(3, description="text_length: a text of fewer words is dropped")
    max_words: Count = Field(256, description="text_length: a text of more words is dropped")
    max_repeated_share: Fraction = Field(
        0.2,
        description="repeated_words: a text is dropped where more of its words are ones that it has already had; words "
        "of up to three letters repeat in any sentence, and do not count as repeated",
    )
    languages: tuple[str, ...] = Field(("en",), description="language: those that are kept, ISO 639", min_length=1)
    min_language_probability: Fraction = Field(
        0.8,
        description="language: a text in another language is dropped where py3langid is at least so sure of it; names "
        "and short texts have no clear one",
    )
    min_letters_share: Fraction = Field(
        0.4, description="few_letters: a text is dropped where fewer of its characters, spaces apart, are letters"
    )

    @model_validator(mode="after")
    def _is_in_order(self) -> TextRulesConfig:
        check_at_most(self, "min_words", "max_words")
        return self

    @property
    def in_order(self) -> tuple[RuleName, ...]:
        """The rules in the order in which they are asked, whatever the order in which they were named."""
        return tuple(one for one in get_args(RuleName) if one in self.rules)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        """Rules by a preset's name, by one of their own, or as a list; in place of the section or in its `rules`."""
        if isinstance(data, str | list | tuple):
            data = {"rules": data}
        rules = data.get("rules") if isinstance(data, Mapping) else None
        if isinstance(rules, str):
            rules = [one.strip() for one in rules.split(",") if one.strip()]
        if not isinstance(rules, list | tuple):
            return data
        if not all(isinstance(one, str) for one in rules):
            return data  # told by the type of the entry
        known = (*PRESETS, *get_args(RuleName))
        if wrong := next((one for one in rules if one not in known), None):
            near = get_close_matches(wrong, known, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"is one of {', '.join(known)}, or a list of them (got {wrong!r}){meant}")
        found = [rule for one in rules for rule in PRESETS.get(one, (one,))]
        return {**data, "rules": tuple(dict.fromkeys(found))}
