"""The rules over web texts: each tells, of one text, whether it speaks against it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from html import unescape

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from blip_bootstrap.config import TextRulesConfig

MOST_CHARS = 1_000
"""As much of a text is enough to tell its language."""

LONG_WORD = 4
"""Letters of a word whose repetition counts: articles and prepositions repeat in any sentence."""

_KIND = r"(?:image|picture|photo(?:graph)?|pic|img|figure|fig|thumbnail|logo|icon|banner|avatar|placeholder|poster)s?"

_BOILERPLATE = re.compile(
    rf"""(?:
    (?:click|tap|hover|press)\s+(?:here|to|on|over|for|this|the|and|{_KIND})\b.*
       \b(?:enlarge|zoom|view|see|open|expand|more|full[ -]size|larger)\b.* |
    (?:image|photo)\s+may\s+contain\b.* | no\s+(?:photo|image)\s+description\s+available.* |
    (?:no\s+)?{_KIND}\s+(?:not\s+)?(?:available|found|missing|unavailable|loading|coming\s+soon)(?:\s+yet)? |
    (?:no\s+)?(?:alt|alternative)\s*(?:text|tag)?(?:\s+(?:available|provided|here|goes\s+here))? |
    (?:the\s+|main\s+|featured\s+|header\s+|hero\s+|cover\s+|profile\s+|product\s+|gallery\s+|post\s+|blog\s+|article\s+|
       embedded\s+|user\s+|author\s+|small\s+|large\s+|slide(?:r|show)?\s+|preview\s+|default\s+|placeholder\s+|background\s+|stock\s+|
       site\s+|company\s+|royalty[ -]free\s+|free\s+|editorial\s+)*
    (?:{_KIND}|vector|illustration|clip\s?art|image\s+permalink|screenshot|untitled|slide|item|spacer|pixel|blank)
       (?:\s*(?:no\.?|number|nr\.?|\#)?\s*\d+(?:\s*(?:of|/)\s*\d+)?)? |
    {_KIND}\s+(?:for|of|result\s+for)\s+(?:(?:the|this)\s+)?
       (?:(?:blog|news)\s+)?(?:post|article|product|item|page|story|listing|entry|event|recipe|video|profile|user) |
    (?:share|pin|tweet|follow|like)\s+(?:this|it|us)?\s*(?:on|to)?\s*
       (?:facebook|twitter|pinterest|instagram|linkedin|whatsapp|x|email)? |
    loading(?:\s*\.*)? | advertisement | sponsored | read\s+more | learn\s+more | buy\s+now | shop\s+now |
    back\s+to\s+top | next | previous | close | menu | home | search | open\s+in\s+(?:a\s+)?new\s+(?:tab|window)
    )""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)

_ENDINGS = r"(?:jpe?g|png|gif|webp|bmp|tiff?|svg|avif|heic|jp2|ico|psd|pdf|raw|cr2|nef)"

_FILE_NAME = re.compile(
    rf"""(?:
    (?:https?://|www\.)\S+ | [^\n]{{0,200}}\.{_ENDINGS}(?:[?\#]\S*)? | (?:[\w\-./\\:]*[/\\])?[0-9a-f]{{12,}} |
    [0-9a-f]{{8}}-[0-9a-f-]{{20,}} | (?:dsc|dscf|dscn|img|imgp|pict?|p|mvi|vid|wp|pxl|screenshot|screen\ shot|scan|
    untitled|fb_img|photo|image)[\W_]*\d[\d\W_a-z]{{0,30}} | [\d\W_]+ | (?=\S*\d)(?=\S*[_\-])[\w\-.+%()]+
    )""",
    re.VERBOSE | re.IGNORECASE,
)

_EMAIL = re.compile(r"[\w.+\-]+(?:@|\s?[\[(]\s?at\s?[\])]\s?)[\w\-]+(?:\.[\w\-]+)+", re.IGNORECASE)

_PHONE = re.compile(
    r"""(?<![\w.,$€£/-])(?:
    \+\d{1,3}[\s().\-/]*\d(?:[\s().\-/]*\d){6,12} | 00\d{1,3}[\s().\-/]+\d(?:[\s().\-/]*\d){6,12} |
    (?:1[\s.\-])?\(\d{2,5}\)[\s.\-]*\d{2,4}(?:[\s.\-]?\d{2,4}){1,3} | (?:1[.\-])?[2-9]\d{2}([.\-])\d{3}\1\d{4} |
    (?:tel|phone|ph|call|mobile|mob|fax|whatsapp|telefon|tél|tlf)\b\.?[\s:#]*(?:us\s+(?:at|on)\s+|at\s+|on\s+)?\d
        (?:[\s().\-/]*\d){6,12}
    )(?![\w-])""",
    re.VERBOSE | re.IGNORECASE,
)

_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
"""Letters of writings that put no spaces between words; each counts as one."""

Rule = Callable[[str, TextRulesConfig], bool]


def is_boilerplate(text: str, _config: TextRulesConfig) -> bool:
    """Whether a text says what a template writes about any picture, and nothing else."""
    return _BOILERPLATE.fullmatch(text.strip(" \t\n.,:;!|-–—_\"'()[]<>…»«")) is not None


def is_file_name(text: str, _config: TextRulesConfig) -> bool:
    """Whether a text is the name of a file, an address or a number."""
    return _FILE_NAME.fullmatch(text.strip()) is not None


def has_wrong_length(text: str, config: TextRulesConfig) -> bool:
    """Whether a text has fewer words than wanted, or more."""
    return not config.min_words <= num_words(text) <= config.max_words


def num_words(text: str) -> int:
    """Words between spaces; of writings without spaces, letters."""
    unspaced = len(_UNSPACED.findall(text))
    return unspaced + len(_UNSPACED.sub(" ", text).split() if unspaced else text.split())


def repeats_words(text: str, config: TextRulesConfig) -> bool:
    """Whether too many of the words have been there before in the text."""
    words = text.casefold().split()
    long = [word for word in (one.strip(".,;:!?\"'()[]|-") for one in words) if len(word) >= LONG_WORD]
    return bool(words) and len(long) - len(set(long)) > config.max_repeated_share * len(words)


def has_contact_details(text: str, _config: TextRulesConfig) -> bool:
    """Whether a text has an e-mail address or a phone number."""
    return _EMAIL.search(text) is not None or _PHONE.search(text) is not None


def has_few_letters(text: str, config: TextRulesConfig) -> bool:
    """Whether too few of the characters that are no spaces are letters, or marks that belong to them."""
    signs = "".join(text.split())
    letters = sum(sign.isalpha() or (sign.isprintable() and not sign.isascii() and _is_mark(sign)) for sign in signs)
    return letters < config.min_letters_share * len(signs)


def _is_mark(sign: str) -> bool:
    return _MARKS.match(sign) is not None


_MARKS = re.compile(r"[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0903\u093a-\u094f\u0981-\u0d4d\u0e31-\u0e4e]")


def language_of(text: str) -> tuple[str, float]:
    """The most likely language, ISO 639, and its probability, 0..1, by py3langid."""
    language, probability = _identifier().classify(text[:MOST_CHARS])
    return str(language), float(probability)


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


RULES: Mapping[str, Rule] = {
    "boilerplate": is_boilerplate,
    "file_name": is_file_name,
    "text_length": has_wrong_length,
    "repeated_words": repeats_words,
    "contact_details": has_contact_details,
    "few_letters": has_few_letters,
}
"""All but the rule about languages, which has more to tell than a verdict."""


def check_text(text: str | None, config: TextRulesConfig) -> tuple[str | None, str | None, float | None]:
    """The first rule of `config.rules`, in the order of `closed_lists.TEXT_RULES`, that speaks against a text; its
    language, and how likely it is, where that rule is asked for. All None for an empty text.
    """
    if not (text or "").strip():
        return None, None, None
    text = unescape(text or "")  # many lists have &amp; and &eacute;
    language, probability = language_of(text) if "language" in config.rules else (None, None)
    is_foreign = not _is_wanted(language, config) and (probability or 0.0) >= config.min_language_probability
    for name in config.in_order:
        if is_foreign if name == "language" else RULES[name](text, config):
            return name, language, probability
    return None, language, probability


def _is_wanted(language: str | None, config: TextRulesConfig) -> bool:
    """py3langid takes some lists of English names for Nigerian Pidgin, and its texts are English to a filter."""
    return ("en" if language == "pcm" and "en" in config.languages else language) in config.languages
