"""Texts about a scene: captions as people write them, in many wordings, and the alt texts of the web."""

from __future__ import annotations

import random
from typing import Literal

from blip_bootstrap.world.scenes import COLOURS, OPPOSITE, SHAPES, SIZES, Relation, Scene, Thing, relation

Kind = Literal["full", "partial", "swapped", "unrelated", "damaged"]

SIZE_WORDS: dict[str, tuple[str, ...]] = {"small": ("small", "little"), "large": ("large", "big")}

NOUNS = ("thing", "object")
"""Nouns for a thing whose shape is not named."""

RELATION_WORDS: dict[Relation, tuple[str, ...]] = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}

SIDE_WORDS: dict[Relation, str] = {
    "left": "on the left", "right": "on the right", "above": "at the top", "below": "at the bottom",
}  # fmt: skip

FILLERS = (
    "a", "an", "the", "of", "and", "with", "there", "is", "are", "it", "this", "one", "on", "in", "at", "to", "picture",
    "drawing", "image", "background", "plain", "light", "we", "see", "shows",
)  # fmt: skip
"""Words that say nothing about the things."""

JUNK = (
    "click", "here", "enlarge", "download", "free", "sale", "shop", "buy", "now", "online", "store", "best", "price",
    "photo", "gallery", "img", "jpg", "png", "copyright", "reserved", "home", "logo", "banner", "new", "official",
    "wallpaper", "hd", "review", "stock", "vector", "illustration", "delivery", "offer", "discount", "quality",
    "collection", "summer", "winter", "deals", "news", "update", "page", "menu", "icon", "thumbnail", "share",
    "subscribe", "read", "more", "for", "your", "by", "from", "2024", "2025", "100", "acme", "lumora", "zentrix",
    "novaco", "brightly", "kestrel", "orbix", "pintura", "velora", "mondo",
)  # fmt: skip
"""Words of alt texts that no picture shows; the last ten are made-up brands."""

_UNRELATED = (
    "click here to enlarge the image", "free delivery for your new {brand}", "buy {brand} online now",
    "copyright {brand} 2024", "{brand} official store", "best price {brand} sale", "read more news from {brand}",
    "share this page", "{brand} logo png", "subscribe for more deals", "stock photo by {brand}",
    "{brand} summer collection 2025", "menu icon", "banner image for {brand} home page", "download free hd wallpaper",
    "{brand} review", "the best offer of the winter", "new {brand} quality for your home",
)  # fmt: skip

BRANDS = JUNK[-10:]


def vocabulary() -> list[str]:
    """The tokens of a BERT vocabulary file for this world, in order: five special tokens, then each word once."""
    words = [*FILLERS, *NOUNS, *COLOURS, *SHAPES]
    words += [word for size in SIZES for word in SIZE_WORDS[size]]
    words += [word for phrases in RELATION_WORDS.values() for phrase in phrases for word in phrase.split()]
    words += [word for phrase in SIDE_WORDS.values() for word in phrase.split()]
    words += [*JUNK, *"0123456789", *".,-|"]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(words)]


def name_thing(thing: Thing, rng: random.Random, size_share: float = 0.15) -> str:
    """The thing in words, with article; its size is said in `size_share` of the cases."""
    words = [thing.colour, thing.shape]
    if rng.random() < size_share:
        words.insert(0, rng.choice(SIZE_WORDS[thing.size]))
    return f"{_article(words[0])} {' '.join(words)}"


def describe(scene: Scene, rng: random.Random, size_share: float = 0.15) -> str:
    """A true caption as a person writes it, in one of many wordings; of three things it may leave out one."""
    things = list(scene.things)
    rng.shuffle(things)
    if len(things) == 1:
        return _describe_one(name_thing(things[0], rng, size_share), rng)
    first, second = things[:2]
    a, b = name_thing(first, rng, size_share), name_thing(second, rng, size_share)
    text = _describe_two(a, b, relation(first, second), rng)
    if len(things) == 3 and rng.random() < 0.5:
        text += f" and {name_thing(things[2], rng, size_share)}"
    return text


def _describe_one(name: str, rng: random.Random) -> str:
    wordings = ("{}", "{}", "there is {}", "{} on a plain background", "this is {}", "we see {}", "one {}")
    wording = rng.choice(wordings)
    return wording.format(name.split(" ", 1)[1] if wording.startswith("one") else name)


def _describe_two(a: str, b: str, where: Relation | None, rng: random.Random) -> str:
    """A caption of two things; most wordings say where the first is, seen from the second."""
    if where is None or rng.random() < 0.35:
        return rng.choice(("{a} and {b}", "there is {a} and {b}", "{a} with {b}")).format(a=a, b=b)
    wordings: tuple[str, ...]
    wordings = ("{a} {rel} {b}", "{a} {rel} {b}", "{a} is {rel} {b}", "there is {a} {rel} {b}", "{b} with {a} {over}")
    over = f"{rng.choice(RELATION_WORDS[where]).removesuffix(' of')} it"
    if where in ("left", "right"):
        over = SIDE_WORDS[where]
        wordings += (f"{{a}} {SIDE_WORDS[where]} and {{b}} {SIDE_WORDS[OPPOSITE[where]]}",)
    return rng.choice(wordings).format(a=a, b=b, rel=rng.choice(RELATION_WORDS[where]), over=over)


def alt_text(kind: Kind, scene: Scene, other: Scene, rng: random.Random) -> str:
    """An alt text of this kind; `other` is the scene that a swapped text is about.

    full: a true caption; partial: one or two true words among junk; swapped: a caption of another scene; unrelated:
    only junk; damaged: a file name, or the beginning of a true caption.
    """
    if kind == "full":
        return describe(scene, rng)
    if kind == "swapped":
        return describe(other, rng)
    if kind == "unrelated":
        return rng.choice(_UNRELATED).format(brand=rng.choice(BRANDS))
    if kind == "partial":
        return _partial(scene, rng)
    if rng.random() < 0.5:
        return f"img {rng.randrange(10)}{rng.randrange(10)} jpg".replace("  ", " ")
    words = describe(scene, rng).split()
    return " ".join(words[: rng.randint(1, max(1, len(words) - 2))])


def _partial(scene: Scene, rng: random.Random) -> str:
    thing = rng.choice(scene.things)
    words = [rng.choice((thing.colour, thing.shape))]
    if rng.random() < 0.3:
        words = [thing.colour, thing.shape]
    junk = rng.sample(JUNK, rng.randint(2, 3))
    place = rng.randint(0, len(junk))
    return " ".join(junk[:place] + words + junk[place:])


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
