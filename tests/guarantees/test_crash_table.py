"""The page's table by crash point has a row for everything that a run of today does."""

from __future__ import annotations

from tests.guarantees.crash_table import BEGIN, END, GUARANTEES, entries, of, operation
from tests.guarantees.points import Undisturbed, all_points


def test_each_operation_of_a_run_is_in_the_table(right: Undisturbed) -> None:
    """Where it is not, `python -m tests.guarantees.crash_table` writes it anew."""
    table = GUARANTEES.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    by_number = {one.number: one for one in right.outcome.operations}
    points = [f"{one.when} {by_number[one.at]}" for one in all_points(right.outcome.operations)]
    assert {(of(one), *operation(one)) for one in points} - entries(table) == set()
