"""Crash points: which there are in a run, and what a run looks like that died at one and was started again."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def all_points(operations: Iterable[Operation]) -> list[Plan]:
    """Before each operation, which is after the one before it; and amid each write."""
    points = []
    for one in operations:
        points += [Plan(one.number), *([Plan(one.number, "half")] if one.kind == "write" else [])]
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


def try_point(point: Plan, folder: Path, right: Undisturbed, off: Guard = "") -> tuple[Seen, list[str]]:
    """Die at a point and run again: what was seen, and what is wrong; the folder is gone afterwards."""
    died = killed_at(point, folder, off)
    there = state_of(folder, died)
    again, wrong = what_is_wrong(folder, died, right, off)
    seen = Seen(died.died, there, next_run(folder, died, again))
    shutil.rmtree(folder)
    return seen, [f"died {died.died}: {one}" for one in wrong]


def tried(
    points: Sequence[Plan], folder: Path, right: Undisturbed, off: Guard = ""
) -> Iterator[tuple[Seen, list[str]]]:
    """Each point tried, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(lambda one: try_point(one[1], folder / f"{one[0]}", right, off), enumerate(points))


@dataclass(frozen=True)
class Seen:
    """A crash point: where it was (`before 3 mkdir run/artifacts`), what was there then, and what the next run did."""

    died: str
    there: str
    then: str


def place_of(died: str) -> Path:
    """What an operation is about: an artifact's folder, or the file or link that is to get its name."""
    words = died.split(" -> ")[0].split(" run", 1)[1]
    path = Path("run" + words)
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
