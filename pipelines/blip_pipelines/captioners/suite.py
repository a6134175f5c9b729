"""The checks that captioners and judges have in common: each is the same again, in any company, process and order."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from blip_bootstrap.errors import BlipBootstrapError
from blip_pipelines.captioners.interface import VARIES_WITH
from blip_pipelines.failures.aside import Aside, Died
from blip_pipelines.failures.limits import Limits

SAME_ROWS = ("nothing", "device")
"""Promises that what is said does not depend on what else is asked."""

PASSED, FAILED, SKIPPED = "passed", "failed", "not promised"

Piece = TypeVar("Piece")
"""What one of them is asked: an ask, or a picture and a text."""

Said = TypeVar("Said")
"""What it says of one: a text, or scores."""


@dataclass(frozen=True)
class Finding:
    """One thing that was checked: what, passed, failed or not promised, and what was seen."""

    check: str
    outcome: str
    told: str = ""


class Failure(AssertionError):  # noqa: N818 - it names an outcome
    """A check that did not pass; the message says what was seen."""


Make = Callable[[], Any]
"""Makes one of the kind that is checked, not loaded; can be pickled."""

Ask = Callable[[Any, Sequence[Piece]], list[Said]]
"""What one that is loaded says of pieces that come together; can be pickled."""


@dataclass(frozen=True)
class Subject(Generic[Piece, Said]):
    """The captioner or judge that is checked, loaded (`one`), and what it is asked.

    `differs` says in words how what is said of a piece, by its number, is another than before; None where it is not.
    """

    make: Make
    ask: Ask[Piece, Said]
    differs: Callable[[Any, int, Said, Said], str | None]
    device: str
    dtype: str
    one: Any
    digest: str
    pieces: list[Piece]

    def promises(self, *kinds: str) -> bool:
        """Whether what it promises is one of these."""
        return self.one.varies_with in kinds

    def said(self, pieces: Sequence[Piece]) -> list[Said]:
        """What it says of pieces that come together."""
        return self.ask(self.one, pieces)

    def equal(self, before: Sequence[Said], after: Sequence[Said], how: str) -> None:
        """Raises Failure where something else is said than before."""
        for number, (said, now) in enumerate(zip(before, after, strict=True)):
            if told := self.differs(self, number, said, now):
                raise Failure(f"{how}, {told}")

    def aside(self) -> Aside:
        """The same one in a process of its own."""
        work = partial(loaded_aside, self.make, self.ask, self.device, self.dtype, sys.path[:])
        return Aside("conformance", work, Limits())


Check = Callable[[Any], str | None]
"""Checks a subject: returns None, or why it does not apply, and raises Failure where it does not pass."""


def findings(
    make: Make, ask: Ask[Piece, Said], differs: Callable[[Any, int, Said, Said], str | None], pieces: list[Piece],
    checks: Mapping[str, Check], device: str, dtype: str,
) -> list[Finding]:  # fmt: skip
    """What all checks find of one that is loaded here, and again in a process of its own, which is killed."""
    one = make()
    digest = str(one.digest)
    one.load(device, dtype)
    subject = Subject(make, ask, differs, device, dtype, one, digest, pieces)
    return [_finding(name, partial(check, subject)) for name, check in checks.items()]


def none_failed(what: str, found: list[Finding]) -> list[Finding]:
    """The findings. Raises AssertionError that names each check that did not pass."""
    if failed := [f"{one.check}: {one.told}" for one in found if one.outcome == FAILED]:
        raise AssertionError(f"{what}: " + "; ".join(failed))
    return found


def needs(condition: bool, told: str) -> None:
    """Raises Failure that says what was seen where something is not as it must be."""
    if not condition:
        raise Failure(told)


def _finding(name: str, check: Callable[[], str | None]) -> Finding:
    try:
        told = check()
    except Failure as failure:
        return Finding(name, FAILED, str(failure))
    except BlipBootstrapError as error:
        return Finding(name, FAILED, " ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001 - whatever a stranger's class raises is a finding
        return Finding(name, FAILED, f"it raised {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return Finding(name, SKIPPED, told) if told else Finding(name, PASSED)


def loaded_aside(make: Make, ask: Ask[Any, Any], device: str, dtype: str, path: list[str]) -> Callable[..., Any]:
    """In the child: load another one; the function asks it."""
    sys.path[:] = [*path, *(one for one in sys.path if one not in path)]
    one = make()
    one.load(device, dtype)
    return partial(ask, one)


def declares(subject: Subject[Any, Any]) -> str | None:
    """`varies_with` is one of the promises, and the digest is a text that stays as it is, before and after loading."""
    promise = subject.one.varies_with
    needs(promise in VARIES_WITH, f"varies_with is {promise!r}, which is none of {', '.join(VARIES_WITH)}")
    digests = {subject.digest, str(subject.one.digest), str(subject.make().digest)}
    needs(len(digests) == 1 and bool(subject.digest), f"its digest is not always the same: {sorted(digests)}")
    return None


def same_when_asked_again(subject: Subject[Any, Any]) -> str | None:
    """The same pieces together are answered alike: what was asked before leaves nothing behind."""
    if subject.promises("server"):
        return "varies_with is server"
    before = subject.said(subject.pieces)
    subject.said(subject.pieces[:1])
    subject.equal(before, subject.said(subject.pieces), "asked again")
    return None


def same_at_any_batch_size(subject: Subject[Any, Any]) -> str | None:
    """The same is said of each piece alone, by twos, or all at once."""
    if not subject.promises(*SAME_ROWS):
        return f"varies_with is {subject.one.varies_with}"
    together = subject.said(subject.pieces)
    for size in (1, 2, 4):
        groups = [subject.pieces[at : at + size] for at in range(0, len(subject.pieces), size)]
        subject.equal(together, [one for group in groups for one in subject.said(group)], f"by {size}")
    return None


def same_in_any_order(subject: Subject[Any, Any]) -> str | None:
    """The same is said of each piece wherever it stands."""
    if not subject.promises(*SAME_ROWS):
        return f"varies_with is {subject.one.varies_with}"
    subject.equal(subject.said(subject.pieces), subject.said(subject.pieces[::-1])[::-1], "in reverse order")
    return None


def same_in_another_process(subject: Subject[Any, Any]) -> str | None:
    """A second worker, and one that was killed with pieces in its hands and began anew, say the same."""
    if subject.promises("server"):
        return "varies_with is server"
    before, aside = subject.said(subject.pieces), subject.aside()
    try:
        subject.equal(before, aside(subject.pieces), "in another process")
        _kill_at_work(aside, subject.pieces)
        subject.equal(before, _begun_anew(aside, subject.pieces), "after kill -9 and a new start")
    finally:
        aside.close()
    return None


def _kill_at_work(aside: Aside, pieces: Sequence[Any]) -> None:
    """Kill the process while it is asked; what it answers before is not looked at."""
    timer = threading.Timer(0.005, os.kill, (aside.pid, signal.SIGKILL))
    timer.start()
    with suppress(Died):
        aside(pieces)
    timer.join()


def _begun_anew(aside: Aside, pieces: Sequence[Any]) -> list[Any]:
    try:
        found: list[Any] = aside(pieces)
    except Died:  # the kill came after its answer, and is noticed now
        found = aside(pieces)
    return found


def goes_on_after_out_of_memory(subject: Subject[Any, Any]) -> str | None:
    """Where torch has no memory within it, it raises that or answers; and goes on as if nothing had been."""
    if "torch" not in sys.modules:
        return "it does not use torch"
    import torch  # loaded by then, by what is checked

    before = subject.said(subject.pieces)
    with without_memory(torch) as raised, suppress(torch.OutOfMemoryError, MemoryError):
        found = subject.said(subject.pieces)
        needs(len(found) == len(subject.pieces), f"{len(found)} answers to {len(subject.pieces)} where memory runs out")
    if not raised:
        return "it has no layer of torch"
    if not subject.promises("server"):
        subject.equal(before, subject.said(subject.pieces), "after memory ran out")
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


FIRST: dict[str, Check] = {"declares its promise and digest": declares}

SAME: dict[str, Check] = {
    "same when asked again": same_when_asked_again,
    "same at any batch size": same_at_any_batch_size,
    "same in any order": same_in_any_order,
    "same in another process, after a kill": same_in_another_process,
}

LAST: dict[str, Check] = {"goes on after out of memory": goes_on_after_out_of_memory}
"""The checks in common, by name; each kind's own stand between."""
