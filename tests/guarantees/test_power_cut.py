"""A run that a power cut ended at any operation, with what was not fsynced gone, goes on as one that was not ended."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.guarantees.points import Undisturbed, all_points, replayed_at, sample, what_is_wrong
from tests.support.durable import Disk, Loss
from tests.support.forked import Job, Outcome, Plan, run_forked
from tests.support.run_contents import contents, names
from tests.support.small_loop import write_inputs

LOSSES: tuple[Loss, ...] = ("all", "bytes", "some")


def wrongs(cuts: Sequence[tuple[Plan, Loss]], folder: Path, of: Outcome, right: Undisturbed, given: Path) -> list[str]:
    """What is wrong after each cut of the recorded run `of` over the inputs `given`."""

    def tried(number: int) -> list[str]:
        (point, loss), at = cuts[number], folder / f"{number}"
        cut = replayed_at(point, loss, at, of)
        _, found = what_is_wrong(at, cut, right, given=given)
        shutil.rmtree(at)
        return [f"cut ({loss}) {cut.died}: {one}" for one in found]

    with ThreadPoolExecutor(2) as pool:
        return [line for lines in pool.map(tried, range(len(cuts))) for line in lines]


def test_the_operations_are_all_that_changed_the_disk(right: Undisturbed, tmp_path: Path) -> None:
    """Replayed they give the very run, so no writer went unseen."""
    (tmp_path / "disk").mkdir()
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
    points = [*all_points(right.outcome.operations, after_fsync=True), Plan(10**9)]
    assert wrongs([(point, loss) for point in points], tmp_path, right.outcome, right, right.given) == []


def test_without_fsync_it_fails(right: Undisturbed, tmp_path: Path) -> None:
    """The negative control: nothing is fsynced, and bytes are lost while names are kept."""
    write_inputs(tmp_path / "given")
    of = run_forked(Job(tmp_path, records=True, off="sync"))
    assert not [one for one in of.operations if one.kind.startswith("fsync")]
    ends = [one.number for one in of.operations if one.kind == "symlink"]
    cuts: list[tuple[Plan, Loss]] = [(Plan(ends[3]), "bytes")]
    assert wrongs(cuts, tmp_path / "cut", of, right, tmp_path / "given")
