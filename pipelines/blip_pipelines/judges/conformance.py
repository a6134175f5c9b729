"""What every judge is held to, built-in or brought by a package: its promise, and that nothing costs the run.

`check_judge(kind, options)` for tests and scripts; `blip-bootstrap conformance KIND` on a command line.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from blip_bootstrap.storage.closed_lists import NO_SCORES
from blip_pipelines.captioners.conformance import (
    FAILED,
    SAME_ROWS,
    Failure,
    Finding,
    drawn_asks,
    finding_of,
    without_memory,
)
from blip_pipelines.cluster.aside import Aside, Died
from blip_pipelines.cluster.limits import Limits
from blip_pipelines.judges.interface import VARIES_WITH, Judge, Pair
from blip_pipelines.judges.registry import make_judge

TEXTS = ("a dog", "a red square on a blue ground", "two", "the red circle", "a cat, a dog and a green picture", "image")

NOISE = {"float32": 1e-4, "bfloat16": 3e-2}
"""How far scores may be apart that are the same but for float noise, as a share of the score where that is over 1."""

Told = list[dict[str, float | None]]


def check_judge(
    kind: str, options: Mapping[str, Any], *, texts: Sequence[str] = TEXTS, device: str = "cpu", dtype: str = "float32"
) -> list[Finding]:
    """All checks of a registered judge; it is loaded here, and again in a process of its own, which is killed.

    The pictures are drawn ones; `texts` stand beside them in turn. Raises ConfigError where the kind is unknown or its
    options are wrong, CheckpointError where it cannot be loaded.
    """
    judge = make_judge(kind, options)
    digest = str(judge.digest)
    judge.load(device, dtype)
    subject = Subject(kind, dict(options), device, dtype, judge, digest, drawn_pairs(texts))
    return [finding_of(name, partial(check, subject)) for name, check in CHECKS.items()]


def assert_conforms(kind: str, options: Mapping[str, Any], **how: Any) -> list[Finding]:
    """`check_judge` for a test. Raises AssertionError that names each check that did not pass."""
    findings = check_judge(kind, options, **how)
    if failed := [f"{one.check}: {one.told}" for one in findings if one.outcome == FAILED]:
        raise AssertionError(f"judge {kind}: " + "; ".join(failed))
    return findings


@dataclass(frozen=True)
class Subject:
    """The judge that is checked, loaded, and the pairs that it scores."""

    kind: str
    options: dict[str, Any]
    device: str
    dtype: str
    judge: Judge
    digest: str
    pairs: list[Pair]

    def promises(self, *kinds: str) -> bool:
        """Whether what it promises is one of these."""
        return self.judge.varies_with in kinds

    def scores(self, pairs: Sequence[Pair]) -> Told:
        """What it says of pairs that come together."""
        return _told(self.judge, pairs)

    def equal(self, before: Told, after: Told, how: str) -> None:
        """Raises Failure where scores are others than before, by more than the judge's promise allows."""
        noise = 0.0 if self.promises("nothing") else NOISE[self.dtype]
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            for name in self.judge.names:
                if not _near(one.get(name), other.get(name), noise):
                    raise Failure(f"{how}, {name} of pair {number} is {other.get(name)} instead of {one.get(name)}")

    def aside(self) -> Aside:
        """The same judge in a process of its own."""
        work = partial(loaded_aside, self.kind, self.options, self.device, self.dtype, sys.path[:])
        return Aside("conformance", work, Limits())


def drawn_pairs(texts: Sequence[str] = TEXTS) -> list[Pair]:
    """Texts beside drawn pictures of several sizes; the first picture has two."""
    pictures = [ask.picture for ask in drawn_asks()]
    return [(picture, texts[at % len(texts)]) for at, picture in enumerate([pictures[0], *pictures])]


def loaded_aside(kind: str, options: Mapping[str, Any], device: str, dtype: str, path: list[str]) -> Callable[..., Any]:
    """In the child: load the judge; the function scores pairs."""
    sys.path[:] = [*path, *(one for one in sys.path if one not in path)]
    judge = make_judge(kind, options)
    judge.load(device, dtype)
    return partial(_told, judge)


def _told(judge: Judge, pairs: Sequence[Pair]) -> Told:
    return [dict(one) for one in judge.score(pairs)]


def _near(one: float | None, other: float | None, noise: float) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= noise * max(1.0, abs(one))


def _needs(condition: bool, told: str) -> None:
    if not condition:
        raise Failure(told)


def declares(subject: Subject) -> str | None:
    """`varies_with` is one of the promises, and the digest is a text that stays as it is, before and after loading."""
    promise = subject.judge.varies_with
    _needs(promise in VARIES_WITH, f"varies_with is {promise!r}, which is none of {', '.join(VARIES_WITH)}")
    again = make_judge(subject.kind, subject.options).digest
    digests = {subject.digest, str(subject.judge.digest), str(again)}
    _needs(len(digests) == 1 and bool(subject.digest), f"its digest is not always the same: {sorted(digests)}")
    return None


def scores_each(subject: Subject) -> str | None:
    """As many scores as pairs, each of the names that it has: a finite number, or none for a reason that is known."""
    found = subject.judge.score(subject.pairs)
    _needs(len(found) == len(subject.pairs), f"{len(found)} scores of {len(subject.pairs)} pairs")
    for one in found:
        unknown = sorted(set(one) - set(subject.judge.names))
        _needs(not unknown, f"it has scores {unknown} that are none of its names, {', '.join(subject.judge.names)}")
        _needs(all(_is_score(value) for value in one.values()), f"a score is no finite number: {dict(one)}")
        error = getattr(one, "error", None)
        _needs(error is None or error in NO_SCORES, f"error {error!r} is none of {', '.join(NO_SCORES)}")
    _needs(len(subject.judge.score([])) == 0, "no pairs have some score")
    return None


def _is_score(value: object) -> bool:
    return value is None or (isinstance(value, float | int) and abs(value) < float("inf"))


def same_when_asked_again(subject: Subject) -> str | None:
    """The same pairs together have the same scores: what was scored before leaves nothing behind."""
    if subject.promises("server"):
        return "varies_with is server"
    before = subject.scores(subject.pairs)
    subject.scores(subject.pairs[:1])
    subject.equal(before, subject.scores(subject.pairs), "asked again")
    return None


def same_at_any_batch_size(subject: Subject) -> str | None:
    """Each score is the same, asked alone, by twos, or all at once."""
    if not subject.promises(*SAME_ROWS):
        return f"varies_with is {subject.judge.varies_with}"
    together = subject.scores(subject.pairs)
    for size in (1, 2, 4):
        groups = [subject.pairs[at : at + size] for at in range(0, len(subject.pairs), size)]
        subject.equal(together, [one for group in groups for one in subject.scores(group)], f"by {size}")
    return None


def same_in_any_order(subject: Subject) -> str | None:
    """Each score is the same wherever its pair stands."""
    if not subject.promises(*SAME_ROWS):
        return f"varies_with is {subject.judge.varies_with}"
    subject.equal(subject.scores(subject.pairs), subject.scores(subject.pairs[::-1])[::-1], "in reverse order")
    return None


def same_in_another_process(subject: Subject) -> str | None:
    """A second worker, and one that was killed with pairs in its hands and began anew, score the same."""
    if subject.promises("server"):
        return "varies_with is server"
    before, aside = subject.scores(subject.pairs), subject.aside()
    try:
        subject.equal(before, aside(subject.pairs), "in another process")
        timer = threading.Timer(0.005, os.kill, (aside.pid, signal.SIGKILL))
        timer.start()
        with suppress(Died):
            aside(subject.pairs)
        timer.join()
        subject.equal(before, _begun_anew(aside, subject.pairs), "after kill -9 and a new start")
    finally:
        aside.close()
    return None


def _begun_anew(aside: Aside, pairs: Sequence[Pair]) -> Told:
    try:
        found: Told = aside(pairs)
    except Died:  # the kill came after its answer, and is noticed now
        found = aside(pairs)
    return found


def bad_pictures_cost_themselves(subject: Subject) -> str | None:
    """Pictures of one pixel, or of one line, have a score, none, or an error when alone; others are as without them."""
    before = subject.scores(subject.pairs)
    for size in ((1, 1), (400, 1), (1, 400)):
        odd: Pair = (Image.new("RGB", size), subject.pairs[0][1])
        try:
            mixed = subject.scores([odd, *subject.pairs])
        except Exception:  # noqa: BLE001 - the run then asks in halves, until the picture is alone
            subject.equal(before, subject.scores(subject.pairs), "after a picture of one pixel or line")
            continue
        _needs(len(mixed) == 1 + len(before), "a picture of one pixel or line has no score of its own")
        if subject.promises(*SAME_ROWS):
            subject.equal(before, mixed[1:], "beside a picture of one pixel or line")
    return None


def strange_texts(subject: Subject) -> str | None:
    """An empty text, and one of 2,000 characters of many kinds, have a score or none."""
    picture = subject.pairs[0][0]
    texts = ["", " ", "ünïcödé \u4e00\u4e8c \U0001f600 {braces} <tags> " * 50]
    found = [one for text in texts for one in subject.scores([(picture, text)])]
    _needs(len(found) == len(texts), "an empty text has no score of its own")
    return None


def goes_on_after_out_of_memory(subject: Subject) -> str | None:
    """Where torch has no memory within it, it raises that or scores; and goes on as if nothing had been."""
    if "torch" not in sys.modules:
        return "it does not use torch"
    import torch  # loaded by then, by the judge

    before = subject.scores(subject.pairs)
    with without_memory(torch) as raised, suppress(torch.OutOfMemoryError, MemoryError):
        found = subject.judge.score(subject.pairs)
        _needs(len(found) == len(subject.pairs), "fewer scores than pairs where memory runs out")
    if not raised:
        return "it has no layer of torch"
    if not subject.promises("server"):
        subject.equal(before, subject.scores(subject.pairs), "after memory ran out")
    return None


CHECKS: dict[str, Callable[[Subject], str | None]] = {
    "declares its promise and digest": declares,
    "scores each pair": scores_each,
    "same when asked again": same_when_asked_again,
    "same at any batch size": same_at_any_batch_size,
    "same in any order": same_in_any_order,
    "same in another process, after a kill": same_in_another_process,
    "bad pictures cost themselves alone": bad_pictures_cost_themselves,
    "empty and strange texts": strange_texts,
    "goes on after out of memory": goes_on_after_out_of_memory,
}
"""The checks by name; each returns None, or why it does not apply, and raises Failure."""
