"""What every captioner is held to, built-in or brought by a package: its promise, and that nothing costs the run.

`check_captioner(kind, options)` for tests and scripts; `blip-bootstrap conformance KIND` on a command line.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from blip_bootstrap.schemas.closed_lists import DEATHS, FLAGS, NO_ANSWERS
from blip_pipelines.captioners.interface import Answer, Ask, Captioner
from blip_pipelines.captioners.registry import KINDS
from blip_pipelines.captioners.suite import (
    FAILED,
    FIRST,
    LAST,
    PASSED,
    SAME,
    SAME_ROWS,
    SKIPPED,
    Check,
    Finding,
    Subject,
    findings,
    needs,
    none_failed,
)

__all__ = ["CHECKS", "FAILED", "PASSED", "PROMPTS", "SKIPPED", "assert_conforms", "check_captioner", "drawn_asks"]

PROMPTS = ("Describe this image in one sentence.", "a picture of", "What is this? The page says: red shoes, size 42")

NUM_ASKS = 6

Asked = Subject[Ask, str]
"""A captioner that is checked; what it says is the text of an answer, or its error."""


def check_captioner(
    kind: str, options: Mapping[str, Any], *, prompts: Sequence[str] = PROMPTS, device: str = "cpu",
    dtype: str = "float32",
) -> list[Finding]:  # fmt: skip
    """All checks of a registered captioner; it is loaded here, and again in a process of its own, which is killed.

    The pictures are drawn ones; `prompts` are what they are asked with. Raises ConfigError where the kind is unknown or
    its options are wrong, CheckpointError where it cannot be loaded.
    """
    make = partial(made_captioner, kind, dict(options))
    return findings(make, texts_of, other_text, drawn_asks(prompts), CHECKS, device, dtype)


def assert_conforms(kind: str, options: Mapping[str, Any], **how: Any) -> list[Finding]:
    """`check_captioner` for a test. Raises AssertionError that names each check that did not pass."""
    return none_failed(f"captioner {kind}", check_captioner(kind, options, **how))


def made_captioner(kind: str, options: Mapping[str, Any]) -> Captioner:
    """Another one, not loaded."""
    return KINDS.make(kind, options)


def texts_of(captioner: Captioner, asks: Sequence[Ask]) -> list[str]:
    """What it answers to asks that come together."""
    return [f"<{one.error}>" if one.error else one.text for one in captioner.caption(asks)]


def other_text(subject: Asked, number: int, before: str, after: str) -> str | None:
    """How an ask is answered otherwise than before."""
    return f"ask {number} is answered by {after[:60]!r} instead of {before[:60]!r}" if before != after else None


def drawn_asks(prompts: Sequence[str] = PROMPTS) -> list[Ask]:
    """Asks about drawn pictures of several sizes, with these prompts in turn."""
    rng = np.random.default_rng(0)
    sizes = [(64, 48), (48, 64), (96, 96), (33, 70), (64, 48), (120, 40)]
    asks = []
    for number in range(NUM_ASKS):
        width, height = sizes[number % len(sizes)]
        small = rng.integers(0, 255, (4, 5, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)
        asks.append(_ask(picture, prompts[number % len(prompts)], 7_919 * (number + 1)))
    return asks


def _ask(picture: Image.Image, prompt: str, seed: int) -> Ask:
    stream = io.BytesIO()
    picture.save(stream, "JPEG")
    return Ask(picture, stream.getvalue(), prompt, seed)


def answers_each(subject: Asked) -> str | None:
    """As many answers as asks, each with a text or one reason of the closed list, flags of the closed list."""
    answers = subject.one.caption(subject.pieces)
    needs(len(answers) == len(subject.pieces), f"{len(answers)} answers to {len(subject.pieces)} asks")
    for answer in answers:
        needs(isinstance(answer, Answer), f"an answer is {type(answer).__name__}, not Answer")
        needs(isinstance(answer.text, str), f"a text is {type(answer.text).__name__}")
        needs(not (answer.error and answer.text), f"an answer has a text and an error, {answer.error!r}")
        known = answer.error is None or answer.error in (*NO_ANSWERS, *DEATHS)
        needs(known, f"error {answer.error!r} is none of {', '.join(NO_ANSWERS)}")
        unknown = [flag for flag in answer.flags if flag not in FLAGS]
        needs(not unknown, f"flags {unknown} are none of {', '.join(FLAGS)}")
    needs(len(subject.one.caption([])) == 0, "no asks are answered by something")
    return None


def bad_pictures_cost_themselves(subject: Asked) -> str | None:
    """Pictures of one pixel, or of one line, have an answer or a reason, and those beside them are as without."""
    bad = [Image.new("RGB", size) for size in ((1, 1), (400, 1), (1, 400))]
    odd = [_ask(picture, subject.pieces[0].prompt, 1) for picture in bad]
    before, mixed = subject.said(subject.pieces), subject.said([*odd, *subject.pieces])
    needs(len(mixed) == len(odd) + len(before), "pictures of one pixel or line have no answer of their own")
    if subject.promises(*SAME_ROWS):
        subject.equal(before, mixed[len(odd) :], "beside pictures of one pixel or line")
    return None


def empty_texts(subject: Asked) -> str | None:
    """An empty prompt, and one of 2,000 characters of many kinds, have an answer or a reason."""
    picture = subject.pieces[0].picture
    prompts = ["", " ", "ünïcödé \u4e00\u4e8c \U0001f600 {braces} <tags> " * 50]
    answers = [one for prompt in prompts for one in subject.one.caption([_ask(picture, prompt, 3)])]
    needs(len(answers) == len(prompts), "an empty prompt has no answer")
    return None


CHECKS: dict[str, Check] = {
    **FIRST,
    "answers each ask": answers_each,
    **SAME,
    "bad pictures cost themselves alone": bad_pictures_cost_themselves,
    "empty and strange prompts": empty_texts,
    **LAST,
}
"""The checks by name; each returns None, or why it does not apply, and raises Failure."""
