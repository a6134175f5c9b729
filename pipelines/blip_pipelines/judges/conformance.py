"""What every judge is held to, built-in or brought by a package: its promise, and that nothing costs the run.

`check_judge(kind, options)` for tests and scripts; `blip-bootstrap conformance KIND` on a command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from PIL import Image

from blip_bootstrap.schemas.closed_lists import NO_SCORES
from blip_pipelines.captioners.conformance import drawn_asks
from blip_pipelines.captioners.suite import (
    FIRST,
    LAST,
    SAME,
    SAME_ROWS,
    Check,
    Finding,
    Subject,
    findings,
    needs,
    none_failed,
)
from blip_pipelines.judges.interface import Judge, Pair
from blip_pipelines.judges.registry import make_judge

TEXTS = ("a dog", "a red square on a blue ground", "two", "the red circle", "a cat, a dog and a green picture", "image")

NOISE = {"float32": 1e-4, "bfloat16": 3e-2}
"""How far scores may be apart that are the same but for float noise, as a share of the score where that is over 1."""

Told = dict[str, float | None]

Scored = Subject[Pair, Told]
"""A judge that is checked."""


def check_judge(
    kind: str, options: Mapping[str, Any], *, texts: Sequence[str] = TEXTS, device: str = "cpu", dtype: str = "float32"
) -> list[Finding]:
    """All checks of a registered judge; it is loaded here, and again in a process of its own, which is killed.

    The pictures are drawn ones; `texts` stand beside them in turn. Raises ConfigError where the kind is unknown or its
    options are wrong, CheckpointError where it cannot be loaded.
    """
    make = partial(make_judge, kind, dict(options))
    return findings(make, scores_of, other_score, drawn_pairs(texts), CHECKS, device, dtype)


def assert_conforms(kind: str, options: Mapping[str, Any], **how: Any) -> list[Finding]:
    """`check_judge` for a test. Raises AssertionError that names each check that did not pass."""
    return none_failed(f"judge {kind}", check_judge(kind, options, **how))


def scores_of(judge: Judge, pairs: Sequence[Pair]) -> list[Told]:
    """What it says of pairs that come together."""
    return [dict(one) for one in judge.score(pairs)]


def other_score(subject: Scored, number: int, before: Told, after: Told) -> str | None:
    """How a score is another than before, by more than the judge's promise allows."""
    noise = 0.0 if subject.promises("nothing") else NOISE[subject.dtype]
    for name in subject.one.names:
        was, now = before.get(name), after.get(name)
        if not _near(was, now, noise):
            return f"{name} of pair {number} is {now} instead of {was}"
    return None


def _near(one: float | None, other: float | None, noise: float) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= noise * max(1.0, abs(one))


def drawn_pairs(texts: Sequence[str] = TEXTS) -> list[Pair]:
    """Texts beside drawn pictures of several sizes; the first picture has two."""
    pictures = [ask.picture for ask in drawn_asks()]
    return [(picture, texts[at % len(texts)]) for at, picture in enumerate([pictures[0], *pictures])]


def scores_each(subject: Scored) -> str | None:
    """As many scores as pairs, each of the names that it has: a finite number, or none for a reason that is known."""
    found, names = subject.one.score(subject.pieces), subject.one.names
    needs(len(found) == len(subject.pieces), f"{len(found)} scores of {len(subject.pieces)} pairs")
    for one in found:
        unknown = sorted(set(one) - set(names))
        needs(not unknown, f"it has scores {unknown} that are none of its names, {', '.join(names)}")
        needs(all(_is_score(value) for value in one.values()), f"a score is no finite number: {dict(one)}")
        error = getattr(one, "error", None)
        needs(error is None or error in NO_SCORES, f"error {error!r} is none of {', '.join(NO_SCORES)}")
    needs(len(subject.one.score([])) == 0, "no pairs have some score")
    return None


def _is_score(value: object) -> bool:
    return value is None or (isinstance(value, float | int) and abs(value) < float("inf"))


def bad_pictures_cost_themselves(subject: Scored) -> str | None:
    """Pictures of one pixel, or of one line, have a score, none, or an error when alone; others are as without them."""
    before = subject.said(subject.pieces)
    for size in ((1, 1), (400, 1), (1, 400)):
        odd: Pair = (Image.new("RGB", size), subject.pieces[0][1])
        try:
            mixed = subject.said([odd, *subject.pieces])
        except Exception:  # noqa: BLE001 - the run then asks in halves, until the picture is alone
            subject.equal(before, subject.said(subject.pieces), "after a picture of one pixel or line")
            continue
        needs(len(mixed) == 1 + len(before), "a picture of one pixel or line has no score of its own")
        if subject.promises(*SAME_ROWS):
            subject.equal(before, mixed[1:], "beside a picture of one pixel or line")
    return None


def strange_texts(subject: Scored) -> str | None:
    """An empty text, and one of 2,000 characters of many kinds, have a score or none."""
    picture = subject.pieces[0][0]
    texts = ["", " ", "ünïcödé \u4e00\u4e8c \U0001f600 {braces} <tags> " * 50]
    found = [one for text in texts for one in subject.said([(picture, text)])]
    needs(len(found) == len(texts), "an empty text has no score of its own")
    return None


CHECKS: dict[str, Check] = {
    **FIRST,
    "scores each pair": scores_each,
    **SAME,
    "bad pictures cost themselves alone": bad_pictures_cost_themselves,
    "empty and strange texts": strange_texts,
    **LAST,
}
"""The checks by name; each returns None, or why it does not apply, and raises Failure."""
