"""The stop rule of rounds."""

from __future__ import annotations

from typing import Any

import pytest

from blip_bootstrap.experiment.file import Stop
from blip_bootstrap.experiment.stop import arms_in_turn, look_back

SERIES = ("r0", "r1", "r2")


def records(**values: list[float]) -> list[dict[str, Any]]:
    return [{"arm": arm, "seed": seed, "figures": {"cider": value}}
            for arm, found in values.items() for seed, value in enumerate(found)]  # fmt: skip


def test_it_stops_where_the_gain_is_within_the_seeds_spread() -> None:
    found = look_back(Stop(arms=SERIES), records(r0=[1.0, 1.2], r1=[2.0, 2.3], r2=[2.5, 2.2]), SERIES, True)
    assert found is not None
    assert (found.at, found.answer) == ("r2", "r1")
    assert found.told == "stops at r2: cider (validation) gains +0.2, the seeds differ by 0.4243; r1 counts"


def test_a_gain_beyond_the_spread_goes_on_until_the_last_round() -> None:
    gained = records(r0=[1.0, 1.2], r1=[2.0, 2.3])
    assert look_back(Stop(arms=SERIES), gained, SERIES[:2], False) is None
    last = look_back(Stop(arms=SERIES), gained, SERIES[:2], True)
    assert last is not None
    assert (last.at, last.answer) == (None, "r1")


def test_of_one_seed_any_gain_counts_and_none_does_not() -> None:
    assert look_back(Stop(arms=SERIES), records(r0=[1.0], r1=[1.01]), SERIES[:2], False) is None
    found = look_back(Stop(arms=SERIES), records(r0=[1.0], r1=[1.0]), SERIES[:2], False)
    assert found is not None
    assert found.answer == "r0"


def test_seeds_that_lack_a_round_are_left_out_of_the_gain() -> None:
    found = records(r0=[1.0, 9.0], r1=[2.0])
    assert look_back(Stop(arms=SERIES), found, SERIES[:2], False) is None
    assert look_back(Stop(arms=SERIES), [], SERIES, True) is None


def test_the_series_ends_where_a_round_failed_in_all_seeds() -> None:
    found = look_back(Stop(arms=SERIES), records(r0=[1.0], r2=[2.0]), ("r0", "r1"), False)
    assert found is not None
    assert (found.at, found.answer) == ("r1", "r0")
    assert found.told == "ends at r1: no seed has cider (validation) of r0 and of it; r0 counts"
    # Of no seed that has both nothing is known of the gain.
    mixed = [*records(r0=[1.0]), {"arm": "r1", "seed": 7, "figures": {"cider": 9.0}}]
    found = look_back(Stop(arms=SERIES), mixed, ("r0", "r1"), False)
    assert found is not None
    assert found.at == "r1"


def test_rounds_that_other_seeds_have_are_no_part_of_it_before_their_turn() -> None:
    """A seed is added: what the others say of later rounds does not end the series before the new one has them."""
    there = records(r0=[1.0, 1.2, 1.1], r1=[2.0, 2.3], r2=[2.0, 2.2])
    assert look_back(Stop(arms=SERIES), there, ("r0",), False, to_come=("r1", "r2")) is None
    with_r1 = [*there, {"arm": "r1", "seed": 2, "figures": {"cider": 2.2}}]
    assert look_back(Stop(arms=SERIES), with_r1, ("r0", "r1"), False, to_come=("r2",)) is None
    found = look_back(Stop(arms=SERIES), with_r1, SERIES, True)
    assert found is not None
    assert found.told.startswith("stops at r2: ")


def test_of_one_round_alone_nothing_is_said() -> None:
    assert look_back(Stop(arms=SERIES), records(r1=[1.0, 1.2]), ("r1",), True) is None


@pytest.mark.parametrize(
    ("stop", "turns"),
    [
        (None, [("r0", "r1", "x", "r2")]),
        (Stop(arms=SERIES, go_on=True), [("r0", "r1", "x", "r2")]),
        (Stop(arms=SERIES), [("r0", "x"), ("r1",), ("r2",)]),
    ],
)
def test_rounds_come_in_turns_where_the_rule_may_stop_them(stop: Stop | None, turns: list[tuple[str, ...]]) -> None:
    assert arms_in_turn(stop, ("r0", "r1", "x", "r2")) == turns
