"""Crash points: which there are in a run, and what a run looks like that died at one and was started again."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.durable import Disk, Loss
from tests.support.forked import KILLED, Guard, Job, Outcome, Plan, run_forked
from tests.support.operations import Operation
from tests.support.run_contents import contents, names, wrong_digests
from tests.support.small_loop import BLOCK_ROWS, ROWS_PER_PART, write_inputs

AT_MOST_TWICE = {"fetch": ROWS_PER_PART, "caption": BLOCK_ROWS, "step": 1}
"""What a kill may cost: what one worker was at, and the steps since a checkpoint."""


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing befell: its operations, and what it left."""

    outcome: Outcome
    contents: dict[str, Any]
    names: Counter[str]
    given: Path


def undisturbed_run(folder: Path, settings: tuple[str, ...] = ()) -> Undisturbed:
    """Run the small loop once, with all its operations recorded."""
    write_inputs(folder / "given")
    job = Job(folder, settings, records=True)
    outcome = run_forked(job)
    assert (outcome.code, outcome.error) == (0, "")
    return Undisturbed(outcome, contents(job.root), names(job.root), folder / "given")


def all_points(operations: Iterable[Operation], after_fsync: bool = False) -> list[Plan]:
    """Before each operation, which is after the one before it; and amid each write.

    A process that dies leaves the same before and after an fsync, a power cut does not. Nor does a thread matter that
    did something between an fsync and the rename of the same file: it has points of its own.
    """
    points, last, of_path = [], "", dict[str, str]()
    for one in operations:
        is_synced = last.startswith("fsync") or (one.to and of_path.get(one.path, "").startswith("fsync"))
        points += [] if is_synced and not after_fsync else [Plan(one.number)]
        points += [Plan(one.number, "half")] if one.kind == "write" else []
        last = of_path[one.path] = one.kind
    return points


def sample(operations: Sequence[Operation], of_each: int) -> list[Plan]:
    """So many points of each kind of operation, the same ones every time."""
    rng = random.Random(0)
    found = []
    for kind in sorted({one.kind for one in operations}):
        mine = [one for one in operations if one.kind == kind]
        found += all_points(rng.sample(mine, min(of_each, len(mine))))
    return sorted(found, key=lambda one: one.at)


def killed_at(point: Plan, folder: Path, off: Guard = "") -> Outcome:
    """A run in a fresh folder that died at a point."""
    write_inputs(folder / "given")
    outcome = run_forked(Job(folder, plan=point, off=off))
    assert outcome.code == KILLED, f"{point}: ended with {outcome.code} {outcome.error}"
    return outcome


def what_is_wrong(
    folder: Path, before: Outcome, right: Undisturbed, off: Guard = "", given: Path | None = None
) -> tuple[Outcome, list[str]]:
    """Run the same command again: how it went, and what of it is not as in an undisturbed run."""
    job = Job(folder, off=off, given=given)
    again = run_forked(job)
    if again.code:
        return again, [f"ended with {again.code}: {again.error}"]
    found = [f"{name} differs" for name in differences(right.contents, contents(job.root))]
    left = names(job.root) - right.names, right.names - names(job.root)
    found += [f"left behind: {sorted(left[0])}"] * bool(left[0]) + [f"lacks: {sorted(left[1])}"] * bool(left[1])
    found += [f"not as its MANIFEST says: {name}" for name in wrong_digests(job.root)]
    done = {line.partition(":")[0] for line in before.said if ": done in" in line}
    found += [f"{name} was done and is made again" for name in again.made if name in done]
    found += [f"{kind}: {count} paid twice" for kind, count in twice(before, again).items()
              if count > AT_MOST_TWICE[kind]]  # fmt: skip
    return again, found


def differences(right: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what is not the same in both."""
    return [name for name in sorted(right.keys() | other.keys()) if right.get(name) != other.get(name)]


def twice(*outcomes: Outcome) -> Counter[str]:
    """How much of each kind was paid for more than once over these runs."""
    paid = Counter(one for outcome in outcomes for one in outcome.paid)
    return Counter({kind: sum(count - 1 for (of, _), count in paid.items() if of == kind) for kind in AT_MOST_TWICE})


def tried(
    points: Sequence[Plan], folder: Path, right: Undisturbed, off: Guard = "", replays: bool = False
) -> Iterator[tuple[Seen, list[str]]]:
    """Each point tried, two at a time; a replay takes the recorded operations up to a point for a run that died."""

    def try_one(numbered: tuple[int, Plan]) -> tuple[Seen, list[str]]:
        number, point = numbered
        at, given = folder / f"{number}", None
        if replays:
            died, given = replayed_at(point, "none", at, right.outcome), right.given
        else:
            died = killed_at(point, at, off)
        there = state_of(at, died)
        again, wrong = what_is_wrong(at, died, right, off, given)
        seen = Seen(died.died, there, next_run(at, died, again))
        shutil.rmtree(at)
        return seen, [f"died {died.died}: {one}" for one in wrong]

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(try_one, enumerate(points))


def replayed_at(point: Plan, loss: Loss, folder: Path, of: Outcome) -> Outcome:
    """The disk as it is when a recorded run ends at a point, and the run as far as it came by then.

    What it paid is left out; as done counts what was pointed to.
    """
    folder.mkdir(parents=True)
    Disk(_before(point, of.operations)).after_power_cut(folder / "disk", loss, seed=point.at)
    done = [one.partition(":")[0] for one in of.said if ": done in" in one]
    pointed = [one.number for one in of.operations if one.kind == "symlink"]
    said = [f"{name}: done in" for name, at in zip(done, pointed, strict=True) if at < point.at]
    died = next((f"{point.when} {one}" for one in of.operations if one.number == point.at), "after the end")
    return Outcome(KILLED, said, "", died, [], [])


def _before(point: Plan, operations: Iterable[Operation]) -> Iterator[Operation]:
    """What was done by a point; of a write that it is amid, half."""
    for one in operations:
        if one.number < point.at:
            yield one
        elif one.number == point.at and point.when == "half":
            yield replace(one, data=one.data[: len(one.data) // 2])


@dataclass(frozen=True)
class Seen:
    """A crash point: where it was (`before 3 mkdir run/artifacts`), what was there then, and what the next run did."""

    died: str
    there: str
    then: str


def place_of(died: str) -> Path:
    """What an operation is about: an artifact's folder, or the file or link that is to get its name."""
    path = Path("run" + died.split(" -> ")[0].partition(" run")[2])
    if path.parts[1:2] == ("artifacts",) and len(path.parts) > 3:
        return Path(*path.parts[:4])
    return path.with_name(TEMPORARY.sub(r"\1", path.name))


TEMPORARY = re.compile(r"^\.(.+)\.[0-9a-f]{32}\.tmp$")
"""The name of a file that is being written, and in it the name that it is to get."""


def state_of(folder: Path, died: Outcome) -> str:
    """What is there of it, in words, after the process has died."""
    place = folder / "disk" / place_of(died.died)
    if not (place.exists() or place.is_symlink()):
        return "nothing"
    if place.parent.parent.name != "artifacts":
        return "there"
    if (place / "MANIFEST.json").exists():
        return "whole"
    return "half-made" if any(one.name[0] != "." or one.is_dir() for one in place.iterdir()) else "begun"


def next_run(folder: Path, died: Outcome, again: Outcome) -> str:
    """What the next run did with it, in words."""
    place = folder / "disk" / place_of(died.died)
    if place.parent.parent.name == "artifacts":
        name = json.loads((place / "MANIFEST.json").read_text())["name"] if (place / "MANIFEST.json").exists() else ""
        return "goes on with it" if name in again.goes_on else "makes it" if name in again.made else "finds it current"
    return "has it" if place.exists() else "has none"
