"""Whether a caption is true of a drawn scene. Used for measuring only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, Literal

from blip_bootstrap.world.scenes import COLOURS, SHAPES, Relation, Scene, Thing, relation, scene_from
from blip_bootstrap.world.wording import FILLERS, NOUNS, SIZE_WORDS

Verdict = Literal["true", "partial", "false"]

_SIZES = {word: size for size, words in SIZE_WORDS.items() for word in words}

_RELATIONS: dict[str, Relation] = {
    "left": "left", "right": "right", "above": "above", "over": "above", "below": "below", "under": "below",
}  # fmt: skip

_SIDES: dict[str, Relation] = {"left": "left", "right": "right", "top": "above", "bottom": "below"}

_CANNOT_END = frozenset({"a", "an", "and", "with", "of", "the", "is", "are", "to", "on", "in", "at", "there", "one"})


@dataclass
class _Mention:
    """A thing that a caption mentions; without a noun, the caption mentions attributes only."""

    attributes: list[tuple[str, str]] = field(default_factory=list)
    has_noun: bool = False
    side: Relation | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether everything that is said of it is true of `thing`; a side is a half of the picture."""
        if self.side is not None and not _on_side(thing, self.side):
            return False
        return all(getattr(thing, name) == value for name, value in self.attributes)


@dataclass
class _Claims:
    """What a caption claims: things, relations (first, relation, second), and whether the sentence is whole."""

    mentions: list[_Mention] = field(default_factory=list)
    relations: list[tuple[int, Relation, int]] = field(default_factory=list)
    num_junk: int = 0
    whole: bool = True


def judge(scene: Scene | Mapping[str, Any], caption: str) -> Verdict:
    """Whether `caption` is true of `scene`, a Scene or its `as_dict()`.

    true: it mentions one thing or more, different things of the scene can be found for all of them so that every
    attribute, relation and side is right, and there are no junk words. partial: something is right and nothing is
    wrong, but there are junk words or the sentence breaks off. false: something is wrong, or nothing is said of the
    picture.
    """
    claims = _parse(re.findall(r"[a-z0-9]+", caption.lower()))
    things = scene_from(scene).things
    if not claims.mentions:
        return "false"
    clean = claims.num_junk == 0 and claims.whole and all(mention.has_noun for mention in claims.mentions)
    if clean:
        return "true" if _holds_together(claims, things) else "false"
    return "partial" if _holds_each(claims, things) else "false"


def _holds_together(claims: _Claims, things: Sequence[Thing]) -> bool:
    """Whether a different thing can be found for each mention so that all claims hold at once."""
    for chosen in permutations(things, len(claims.mentions)):
        fits = all(mention.fits(thing) for mention, thing in zip(claims.mentions, chosen, strict=True))
        if fits and all(relation(chosen[i], chosen[j]) == where for i, where, j in claims.relations):
            return True
    return False


def _holds_each(claims: _Claims, things: Sequence[Thing]) -> bool:
    """Whether each mention and each relation holds alone: in a broken text, "red ... circle" may be one thing."""
    if not all(any(mention.fits(thing) for thing in things) for mention in claims.mentions):
        return False
    return all(_relation_holds(claims, things, *triple) for triple in claims.relations)


def _relation_holds(claims: _Claims, things: Iterable[Thing], i: int, where: Relation, j: int) -> bool:
    pairs = permutations(things, 2)
    first, second = claims.mentions[i], claims.mentions[j]
    return any(first.fits(a) and second.fits(b) and relation(a, b) == where for a, b in pairs)


def _on_side(thing: Thing, side: Relation) -> bool:
    if side in ("left", "right"):
        return (thing.x < 0.5) == (side == "left")
    return (thing.y < 0.5) == (side == "above")


def _parse(words: list[str]) -> _Claims:
    """The claims of a caption, read word by word."""
    claims = _Claims(whole=bool(words) and words[-1] not in _CANNOT_END)
    current: _Mention | None = None
    pending: tuple[int, Relation] | None = None
    for at, word in enumerate(words):
        attribute = _attribute(word)
        if attribute is None:
            current = None
            pending = _read_place(claims, words, at, pending)
            continue
        if current is None or current.has_noun:
            current = _Mention()
            claims.mentions.append(current)
            if pending is not None:
                claims.relations.append((*pending, len(claims.mentions) - 1))
                pending = None
        _add(current, attribute)
    if pending is not None:
        claims.whole = False
    return claims


def _read_place(
    claims: _Claims, words: list[str], at: int, pending: tuple[int, Relation] | None
) -> tuple[int, Relation] | None:
    """Read a word that is no attribute: a relation (pending until its second thing comes), a side, filler or junk."""
    word, after = words[at], words[at + 1] if at + 1 < len(words) else ""
    last = len(claims.mentions) - 1
    if word == "it" and pending is not None:
        if last > 0:
            claims.relations.append((pending[0], pending[1], last - 1))
        return None
    is_side = word in _SIDES and (word in ("top", "bottom") or after not in ("of", "it"))
    if is_side and last >= 0 and claims.mentions[last].side is None:
        claims.mentions[last].side = _SIDES[word]
    elif word in _RELATIONS and not is_side and last >= 0 and pending is None:
        return last, _RELATIONS[word]
    elif is_side or word in _RELATIONS:
        claims.whole = False
    elif word not in FILLERS:
        claims.num_junk += 1
    return pending


def _attribute(word: str) -> tuple[str, str] | None:
    """The attribute that a word names, as (field of Thing, value), or ("noun", word) for a noun that is no shape."""
    if word in COLOURS:
        return "colour", word
    if word in SHAPES:
        return "shape", word
    if word in NOUNS:
        return "noun", word
    return ("size", _SIZES[word]) if word in _SIZES else None


def _add(mention: _Mention, attribute: tuple[str, str]) -> None:
    if attribute[0] in ("shape", "noun"):
        mention.has_noun = True
    if attribute[0] != "noun":
        mention.attributes.append(attribute)
