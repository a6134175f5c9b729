"""What every captioner is held to, built-in or brought by a package: its promise, and that nothing costs the run.

`check_captioner(kind, options)` for tests and scripts; `blip-bootstrap conformance KIND` on a command line.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from blip_bootstrap.errors import BlipBootstrapError
from blip_bootstrap.storage.closed_lists import DEATHS, FLAGS, NO_ANSWERS
from blip_pipelines.captioners.interface import VARIES_WITH, Answer, Ask, Captioner
from blip_pipelines.captioners.registry import KINDS
from blip_pipelines.cluster.aside import Aside, Died
from blip_pipelines.cluster.limits import Limits

PROMPTS = ("Describe this image in one sentence.", "a picture of", "What is this? The page says: red shoes, size 42")

NUM_ASKS = 6

SAME_ROWS = ("nothing", "device")
"""Promises that texts do not depend on what else is asked."""

PASSED, FAILED, SKIPPED = "passed", "failed", "not promised"


@dataclass(frozen=True)
class Finding:
    """One thing that was checked: what, passed, failed or not promised, and what was seen."""

    check: str
    outcome: str
    told: str = ""


class Failure(AssertionError):  # noqa: N818 - it names an outcome
    """A check that did not pass; the message says what was seen."""


def check_captioner(
    kind: str, options: Mapping[str, Any], *, prompts: Sequence[str] = PROMPTS, device: str = "cpu",
    dtype: str = "float32",
) -> list[Finding]:  # fmt: skip
    """All checks of a registered captioner; it is loaded here, and again in a process of its own, which is killed.

    The pictures are drawn ones; `prompts` are what they are asked with. Raises ConfigError where the kind is unknown or
    its options are wrong, CheckpointError where it cannot be loaded.
    """
    captioner = KINDS.make(kind, options)
    digest = str(captioner.digest)
    captioner.load(device, dtype)
    subject = Subject(kind, dict(options), device, dtype, captioner, digest, drawn_asks(prompts))
    return [finding_of(name, partial(check, subject)) for name, check in CHECKS.items()]


def assert_conforms(kind: str, options: Mapping[str, Any], **how: Any) -> list[Finding]:
    """`check_captioner` for a test. Raises AssertionError that names each check that did not pass."""
    findings = check_captioner(kind, options, **how)
    if failed := [f"{one.check}: {one.told}" for one in findings if one.outcome == FAILED]:
        raise AssertionError(f"captioner {kind}: " + "; ".join(failed))
    return findings


@dataclass(frozen=True)
class Subject:
    """The captioner that is checked, loaded, and what it is asked."""

    kind: str
    options: dict[str, Any]
    device: str
    dtype: str
    captioner: Captioner
    digest: str
    asks: list[Ask]

    def promises(self, *kinds: str) -> bool:
        """Whether what it promises is one of these."""
        return self.captioner.varies_with in kinds

    def texts(self, asks: Sequence[Ask]) -> list[str]:
        """What it answers to asks that come together."""
        return [_told(one) for one in self.captioner.caption(asks)]

    def aside(self) -> Aside:
        """The same captioner in a process of its own."""
        work = partial(loaded_aside, self.kind, self.options, self.device, self.dtype, sys.path[:])
        return Aside("conformance", work, Limits())


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


def loaded_aside(kind: str, options: Mapping[str, Any], device: str, dtype: str, path: list[str]) -> Callable[..., Any]:
    """In the child: load the captioner; the function answers asks."""
    sys.path[:] = [*path, *(one for one in sys.path if one not in path)]
    captioner = KINDS.make(kind, options)
    captioner.load(device, dtype)
    return partial(_answered, captioner)


def _answered(captioner: Captioner, asks: Sequence[Ask]) -> list[str]:
    return [_told(one) for one in captioner.caption(asks)]


def _told(answer: Answer) -> str:
    return f"<{answer.error}>" if answer.error else answer.text


def finding_of(name: str, check: Callable[[], str | None]) -> Finding:
    """What a check finds: it returns None, or why it does not apply, and raises where it does not pass."""
    try:
        told = check()
    except Failure as failure:
        return Finding(name, FAILED, str(failure))
    except BlipBootstrapError as error:
        return Finding(name, FAILED, " ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001 - whatever a stranger's captioner raises is a finding
        return Finding(name, FAILED, f"it raised {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return Finding(name, SKIPPED, told) if told else Finding(name, PASSED)


def _equal(before: Sequence[str], after: Sequence[str], how: str) -> None:
    """Raises Failure where texts are others than before."""
    for number, (one, other) in enumerate(zip(before, after, strict=True)):
        if one != other:
            raise Failure(f"{how}, ask {number} is answered by {other[:60]!r} instead of {one[:60]!r}")


def _needs(condition: bool, told: str) -> None:
    if not condition:
        raise Failure(told)


def declares(subject: Subject) -> str | None:
    """`varies_with` is one of the promises, and the digest is a text that stays as it is, before and after loading."""
    promise = subject.captioner.varies_with
    _needs(promise in VARIES_WITH, f"varies_with is {promise!r}, which is none of {', '.join(VARIES_WITH)}")
    again = KINDS.make(subject.kind, subject.options).digest
    digests = {subject.digest, str(subject.captioner.digest), str(again)}
    _needs(len(digests) == 1 and bool(subject.digest), f"its digest is not always the same: {sorted(digests)}")
    return None


def answers_each(subject: Subject) -> str | None:
    """As many answers as asks, each with a text or one reason of the closed list, flags of the closed list."""
    answers = subject.captioner.caption(subject.asks)
    _needs(len(answers) == len(subject.asks), f"{len(answers)} answers to {len(subject.asks)} asks")
    for answer in answers:
        _needs(isinstance(answer, Answer), f"an answer is {type(answer).__name__}, not Answer")
        _needs(isinstance(answer.text, str), f"a text is {type(answer.text).__name__}")
        _needs(not (answer.error and answer.text), f"an answer has a text and an error, {answer.error!r}")
        known = answer.error is None or answer.error in (*NO_ANSWERS, *DEATHS)
        _needs(known, f"error {answer.error!r} is none of {', '.join(NO_ANSWERS)}")
        unknown = [flag for flag in answer.flags if flag not in FLAGS]
        _needs(not unknown, f"flags {unknown} are none of {', '.join(FLAGS)}")
    _needs(len(subject.captioner.caption([])) == 0, "no asks are answered by something")
    return None


def same_at_any_batch_size(subject: Subject) -> str | None:
    """Each text is the same, asked alone, by twos, or all at once."""
    if not subject.promises(*SAME_ROWS):
        return f"varies_with is {subject.captioner.varies_with}"
    together = subject.texts(subject.asks)
    for size in (1, 2, 4):
        groups = [subject.asks[at : at + size] for at in range(0, len(subject.asks), size)]
        _equal(together, [text for group in groups for text in subject.texts(group)], f"by {size}")
    return None


def same_in_any_order(subject: Subject) -> str | None:
    """Each text is the same wherever its ask stands."""
    if not subject.promises(*SAME_ROWS):
        return f"varies_with is {subject.captioner.varies_with}"
    _equal(subject.texts(subject.asks), subject.texts(subject.asks[::-1])[::-1], "in reverse order")
    return None


def same_when_asked_again(subject: Subject) -> str | None:
    """The same asks together have the same answers: what was asked before leaves nothing behind."""
    if subject.promises("server"):
        return "varies_with is server"
    before = subject.texts(subject.asks)
    subject.texts(subject.asks[:1])
    _equal(before, subject.texts(subject.asks), "asked again")
    return None


def same_in_another_process(subject: Subject) -> str | None:
    """A second worker, and one that was killed with an ask in its hands and began anew, write the same."""
    if subject.promises("server"):
        return "varies_with is server"
    before, aside = subject.texts(subject.asks), subject.aside()
    try:
        _equal(before, aside(subject.asks), "in another process")
        _kill_at_work(aside, subject.asks)
        _equal(before, _begun_anew(aside, subject.asks), "after kill -9 and a new start")
    finally:
        aside.close()
    return None


def _kill_at_work(aside: Aside, asks: Sequence[Ask]) -> None:
    """Kill the process while it is asked; what it answers before is not looked at."""
    timer = threading.Timer(0.005, os.kill, (aside.pid, signal.SIGKILL))
    timer.start()
    with suppress(Died):
        aside(asks)
    timer.join()


def _begun_anew(aside: Aside, asks: Sequence[Ask]) -> list[str]:
    try:
        found: list[str] = aside(asks)
    except Died:  # the kill came after its answer, and is noticed now
        found = aside(asks)
    return found


def bad_pictures_cost_themselves(subject: Subject) -> str | None:
    """Pictures of one pixel, or of one line, have an answer or a reason, and those beside them are as without."""
    bad = [Image.new("RGB", size) for size in ((1, 1), (400, 1), (1, 400))]
    odd = [_ask(picture, subject.asks[0].prompt, 1) for picture in bad]
    before, mixed = subject.texts(subject.asks), subject.texts([*odd, *subject.asks])
    _needs(len(mixed) == len(odd) + len(before), "pictures of one pixel or line have no answer of their own")
    if subject.promises(*SAME_ROWS):
        _equal(before, mixed[len(odd) :], "beside pictures of one pixel or line")
    return None


def empty_texts(subject: Subject) -> str | None:
    """An empty prompt, and one of 2,000 characters of many kinds, have an answer or a reason."""
    picture = subject.asks[0].picture
    prompts = ["", " ", "ünïcödé \u4e00\u4e8c \U0001f600 {braces} <tags> " * 50]
    answers = [one for prompt in prompts for one in subject.captioner.caption([_ask(picture, prompt, 3)])]
    _needs(len(answers) == len(prompts), "an empty prompt has no answer")
    return None


def goes_on_after_out_of_memory(subject: Subject) -> str | None:
    """Where torch has no memory within it, it raises that or answers; and goes on as if nothing had been."""
    if "torch" not in sys.modules:
        return "it does not use torch"
    import torch  # loaded by then, by the captioner

    before = subject.texts(subject.asks)
    with without_memory(torch) as raised, suppress(torch.OutOfMemoryError, MemoryError):
        answers = subject.captioner.caption(subject.asks)
        _needs(len(answers) == len(subject.asks), "fewer answers than asks where memory runs out")
    if not raised:
        return "it has no layer of torch"
    if not subject.promises("server"):
        _equal(before, subject.texts(subject.asks), "after memory ran out")
    return None


@contextmanager
def without_memory(torch: Any) -> Iterator[list[int]]:
    """Torch's linear layers, in this process, find no memory within the body; the list has an entry for each."""
    real, raised = torch.nn.functional.linear, []

    def linear(*_: Any, **__: Any) -> Any:
        raised.append(1)
        raise torch.OutOfMemoryError("no memory, for a test")

    torch.nn.functional.linear = linear
    try:
        yield raised
    finally:
        torch.nn.functional.linear = real


CHECKS: dict[str, Callable[[Subject], str | None]] = {
    "declares its promise and digest": declares,
    "answers each ask": answers_each,
    "same when asked again": same_when_asked_again,
    "same at any batch size": same_at_any_batch_size,
    "same in any order": same_in_any_order,
    "same in another process, after a kill": same_in_another_process,
    "bad pictures cost themselves alone": bad_pictures_cost_themselves,
    "empty and strange prompts": empty_texts,
    "goes on after out of memory": goes_on_after_out_of_memory,
}
"""The checks by name; each returns None, or why it does not apply, and raises Failure."""
