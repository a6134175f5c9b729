"""A run that a power cut ended at any operation, with what was not fsynced gone, goes on as one that was not ended."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from tests.guarantees.points import Undisturbed, all_points, sample, what_is_wrong
from tests.support.durable import Disk, Loss
from tests.support.forked import Guard, Job, Outcome, Plan, run_forked
from tests.support.operations import Operation
from tests.support.run_contents import contents, names
from tests.support.small_loop import write_inputs

LOSSES: tuple[Loss, ...] = ("all", "bytes", "some")


def before(point: Plan, operations: Iterable[Operation]) -> Iterator[Operation]:
    """What was done by a point; of a write that it is amid, half."""
    for one in operations:
        if one.number < point.at:
            yield one
        elif one.number == point.at and point.when == "half":
            yield replace(one, data=one.data[: len(one.data) // 2])


def cut_at(point: Plan, loss: Loss, folder: Path, of: Outcome) -> None:
    """A run in a fresh folder as a power cut at a point left it."""
    folder.mkdir(parents=True)
    Disk(before(point, of.operations)).after_power_cut(folder / "disk", loss, seed=point.at)


def wrongs(cuts: Sequence[tuple[Plan, Loss]], folder: Path, of: Outcome, right: Undisturbed, given: Path) -> list[str]:
    """What is wrong after each cut; that what was done by then stays done is looked at, what is paid is not."""

    def tried(number: int) -> list[str]:
        (point, loss), at = cuts[number], folder / f"{number}"
        cut_at(point, loss, at, of)
        _, found = what_is_wrong(at, said_by(point, of), right, given=given)
        shutil.rmtree(at)
        said = next((one for one in of.operations if one.number == point.at), "end")
        return [f"cut ({loss}, {point.when}) {said}: {one}" for one in found]

    with ThreadPoolExecutor(2) as pool:
        return [line for lines in pool.map(tried, range(len(cuts))) for line in lines]


def said_by(point: Plan, of: Outcome) -> Outcome:
    """The run as far as it came: which artifacts the records had by then, fsynced."""
    done = [one.partition(":")[0] for one in of.said if ": done in" in one]
    points = [one.number for one in of.operations if one.kind == "symlink" or one.path.endswith("html")]
    linked = [name for name, at in zip(done, points, strict=False) if at < point.at]
    return replace(of, said=[f"{name}: done in" for name in linked], paid=[])


def test_the_operations_are_all_that_changed_the_disk(right: Undisturbed, tmp_path: Path) -> None:
    """Replayed they give the very run, so no writer went unseen."""
    Disk(right.outcome.operations).after_power_cut(tmp_path / "disk", "none")
    assert names(tmp_path / "disk/run") == right.names
    assert contents(tmp_path / "disk/run") == right.contents


def test_cut_at_some_operations_of_each_kind(right: Undisturbed, tmp_path: Path) -> None:
    points = sample(right.outcome.operations, of_each=1)
    cuts = [(point, LOSSES[number % 3]) for number, point in enumerate(points)]
    assert wrongs(cuts, tmp_path, right.outcome, right, right.given) == []


@pytest.mark.long
@pytest.mark.parametrize("loss", LOSSES)
def test_cut_at_every_operation(right: Undisturbed, tmp_path: Path, loss: Loss) -> None:
    points = [*all_points(right.outcome.operations), Plan(10**9)]
    assert wrongs([(point, loss) for point in points], tmp_path, right.outcome, right, right.given) == []


def test_without_fsync_it_fails(right: Undisturbed, tmp_path: Path) -> None:
    """The negative control: nothing is fsynced, and bytes are lost while names are kept."""
    write_inputs(tmp_path / "given")
    of = run_forked(Job(tmp_path, records=True, off="sync"))
    assert not [one for one in of.operations if one.kind.startswith("fsync")]
    ends = [one.number for one in of.operations if one.kind == "symlink"]
    cuts: list[tuple[Plan, Loss]] = [(Plan(ends[3]), "bytes")]
    assert wrongs(cuts, tmp_path / "cut", of, right, tmp_path / "given")
