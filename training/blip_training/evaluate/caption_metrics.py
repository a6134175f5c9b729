"""CIDEr, BLEU-4 and ROUGE-L of captions, by pycocoevalcap's scorers on words from a tokenizer that needs no Java."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge

from blip_bootstrap.errors import InputError

# What COCO's evaluation leaves out of the Penn Treebank's tokens.
_PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", '"'])

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}

_SPLIT_WORDS = {"cannot": ("can", "not"), "gonna": ("gon", "na"), "wanna": ("wan", "na"), "gotta": ("got", "ta")}

_TOKEN = re.compile(
    r"""
    \.\.\.                                     # an ellipsis
    | -{2,}                                    # a dash
    | (?:[a-z]\.){2,}                          # u.s.
    | (?:mr|mrs|ms|dr|st|jr|sr|vs)\.           # titles keep their full stop
    | \d+(?:[.,:/]\d+)+                        # 1,000  3.5  10:30  1/2
    | [a-z]+n't                                # two words: do n't
    | '(?:s|m|d|ll|re|ve)\b                    # endings of contractions
    | \w+(?:[-.@&/+*]\w+)*                     # t-shirt, a.b
    | [^\w\s]
    """,
    re.VERBOSE,
)


def ptb_words(text: str) -> list[str]:
    """Lower-case words as COCO's evaluation counts them: Penn Treebank tokens without punctuation marks.

    They agree with those of the Stanford tokenizer, which COCO's evaluation runs in Java.
    """
    words: list[str] = []
    for token in _TOKEN.findall(text.lower().replace("’", "'")):
        if token in _PUNCTUATION:
            continue
        if token.endswith("n't") and len(token) > 3:
            words += [token[:-3], "n't"]
        elif token in _SPLIT_WORDS:
            words += _SPLIT_WORDS[token]
        else:
            words.append(_BRACKETS.get(token, token))
    return words


@dataclass(frozen=True)
class CaptionScores:
    """CIDEr (0..10, as COCO counts it) and ROUGE-L (0..1) of each caption by key, and BLEU-4 of any of them."""

    cider: dict[str, float]
    rouge_l: dict[str, float]
    words: dict[str, str]
    reference_words: dict[str, list[str]]

    def over(self, keys: Sequence[str]) -> dict[str, float]:
        """`cider` and `rouge_l` as means over the captions of `keys`, and their corpus BLEU-4 as `bleu4`."""
        given = {key: [self.words[key]] for key in keys}
        bleu, _ = Bleu(4).compute_score({key: self.reference_words[key] for key in keys}, given, verbose=0)
        cider, rouge_l = (sum(own[key] for key in keys) / len(keys) for own in (self.cider, self.rouge_l))
        return {"cider": cider, "bleu4": float(bleu[3]), "rouge_l": rouge_l}

    def bleu(self) -> dict[str, float]:
        """Corpus BLEU (0..1) of all captions with n-grams up to 1, 2, 3 and 4 words, as `bleu1` to `bleu4`."""
        given = {key: [text] for key, text in self.words.items()}
        scores, _ = Bleu(4).compute_score(self.reference_words, given, verbose=0)
        return {f"bleu{n}": float(score) for n, score in enumerate(scores, 1)}

    def meteor(self) -> float:
        """METEOR 1.5 (0..1) over all captions. Raises InputError if there is no `java`, in which its scorer runs."""
        if shutil.which("java") is None:
            raise InputError("evaluate.meteor needs java, which is not on the PATH; install it or set meteor: false")
        score, _ = Meteor().compute_score(self.reference_words, {key: [text] for key, text in self.words.items()})
        return float(score)


def score_captions(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> CaptionScores:
    """Score one caption per key against the key's references.

    CIDEr takes its document frequencies from `references`, as in COCO's evaluation. Raises InputError if a key has no
    reference or there is no caption at all.
    """
    if not captions:
        raise InputError("no captions to score: the held-out set has no readable picture")
    if without := next((key for key in captions if not references.get(key)), None):
        raise InputError(f"key {without}: the held-out set has no caption for it")
    words = {key: " ".join(ptb_words(caption)) for key, caption in captions.items()}
    wanted = {key: [" ".join(ptb_words(text)) for text in references[key]] for key in captions}
    given = {key: [text] for key, text in words.items()}
    _, cider = Cider().compute_score(wanted, given)
    _, rouge = Rouge().compute_score(wanted, given)
    cider_of, rouge_of = (dict(zip(words, map(float, scores), strict=True)) for scores in (cider, rouge))
    return CaptionScores(cider_of, rouge_of, words, wanted)
