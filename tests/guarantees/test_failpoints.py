"""A run that dies at any operation on names or bytes, and is started again, is an undisturbed run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.guarantees.crash_table import GUARANTEES, table
from tests.guarantees.points import Undisturbed, all_points, sample, tried
from tests.support.forked import Guard, Job, Plan, run_forked
from tests.support.small_loop import write_inputs


def wrongs(points: Sequence[Plan], folder: Path, right: Undisturbed, off: Guard = "") -> list[str]:
    """What is wrong after each point."""
    return [line for _, lines in tried(points, folder, right, off) for line in lines]


def test_killed_at_some_operations_of_each_kind(right: Undisturbed, tmp_path: Path) -> None:
    points = sample(right.outcome.operations, of_each=1)
    assert len(points) > 8
    assert wrongs(points, tmp_path, right) == []


@pytest.mark.long
def test_killed_at_every_operation(right: Undisturbed, tmp_path: Path) -> None:
    points = all_points(right.outcome.operations)
    assert len(points) > 300
    seen, wrong = zip(*tried(points, tmp_path, right), strict=True)
    assert [line for lines in wrong for line in lines] == []
    assert table(seen) in GUARANTEES.read_text(encoding="utf-8")


@pytest.mark.parametrize("off", ["manifest last", "whole files"])
def test_without_its_guard_it_fails(right: Undisturbed, tmp_path: Path, off: Guard) -> None:
    """A MANIFEST that is written before the last part, or parts that are written in place."""
    write_inputs(tmp_path / "first/given")
    done = run_forked(Job(tmp_path / "first", records=True, off=off))
    writes = [one for one in done.operations if one.kind == "write" and "part-00001.parquet" in one.path]
    of_images = [one for one in writes if "download_images" in one.path and "/rows/" not in one.path]
    assert wrongs([Plan(of_images[0].number, "half")], tmp_path / "then", right, off)
