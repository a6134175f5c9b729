"""How often hosts are asked, and in which order, by a clock that the test moves."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from blip_bootstrap.config import DownloadConfig
from blip_pipelines.fetch.answers import retry_after_s
from blip_pipelines.fetch.hosts import GO, NUM_RECORDS, Hosts, Limits, Outcome
from blip_pipelines.fetch.turns import Task, Turns

FAILED, FINE = Outcome(failed=True), Outcome()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def hosts(clock: Clock, folder: Path | None = None, **settings: object) -> Hosts:
    return Hosts(
        folder, Limits.of(DownloadConfig.model_validate({"host_requests_per_s": float("inf")} | settings)), clock
    )


def asked(turns: Turns, clock: Clock) -> list[Task]:
    """All that may be asked now."""
    found = list[Task]()
    while task := turns.next(clock.now):
        found.append(task)
    return found


def test_hosts_take_turns_and_the_first_request_goes_alone() -> None:
    clock = Clock()
    of = [(0, "a"), (1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c")]
    turns = Turns([Task(place, f"http://{host}/{place}", host) for place, host in of], hosts(clock, host_connections=2))
    first = asked(turns, clock)
    assert [task.place for task in first] == [0, 3, 5]
    for task in first:
        turns.done(task, FINE)
    rest = asked(turns, clock)
    assert sorted(task.place for task in rest) == [1, 2, 4]
    for task in rest:
        turns.done(task, FINE)
    assert turns.is_over


def test_a_host_has_so_many_connections_and_no_more(tmp_path: Path) -> None:
    clock = Clock()
    turns = Turns([Task(place, "u", "a") for place in range(9)], hosts(clock, tmp_path, host_connections=3))
    turns.done(asked(turns, clock)[0], FINE)
    several = asked(turns, clock)
    assert len(several) == 3
    turns.done(several[0], FINE)
    assert len(asked(turns, clock)) == 1


def test_requests_of_a_host_keep_their_distance() -> None:
    clock = Clock()
    slow, free = hosts(clock, host_requests_per_s=4), hosts(clock)
    assert slow.enter("a") == GO
    assert slow.enter("a").wait_s == pytest.approx(0.25)
    assert slow.enter("b") == GO
    clock.now += 0.25
    assert slow.enter("a") == GO
    free.slow_down("a", 2.0)
    free.slow_down("b", 3_600.0)
    assert free.enter("a").wait_s == pytest.approx(2)
    assert free.enter("b").wait_s == pytest.approx(10)  # max_crawl_delay_s
    by_default = Hosts(None, Limits.of(DownloadConfig()), clock)
    assert [by_default.enter(host) for host in ("127.0.0.1:80", "127.0.0.1:80", "www.example.org")] == [GO] * 3
    assert by_default.enter("www.example.org").wait_s == pytest.approx(1 / 30)


@pytest.mark.parametrize(
    ("outcomes", "wait_s", "rests"),
    [
        ([Outcome(True, 429, 7.0)], 7.0, False),
        ([Outcome(True, 503, 7.0)], 7.0, False),
        ([Outcome(True, 429)], 0.5, False),
        ([Outcome(True, 429)] * 3, 2.0, False),
        ([Outcome(True, 503)] * 2, 0.0, False),
        ([Outcome(True, 503)] * 3, 2.0, False),
        ([Outcome(True, 429)] * 12, 60.0, False),
        ([Outcome(True, 429, 90.0)], 90.0, True),
        ([Outcome(True, 429, 1e9)], 86_400.0, True),
        ([FAILED] * 24, 0.0, False),
        ([FAILED] * 25, 300.0, True),
        ([*[FAILED] * 24, FINE, FAILED], 0.0, False),
    ],
)
def test_pauses_and_rests(outcomes: list[Outcome], wait_s: float, rests: bool) -> None:
    known = hosts(clock := Clock())
    for outcome in outcomes:
        known.leave("a", outcome)
    turn = known.enter("a")
    assert turn.wait_s == pytest.approx(wait_s)
    assert turn.rests is rests
    clock.now += wait_s
    assert known.enter("a") == GO


def test_a_host_that_has_rested_is_asked_once_and_rests_again() -> None:
    known = hosts(clock := Clock(), host_failures=3, host_rest_s=50)
    for _ in range(3):
        known.leave("a", FAILED)
    clock.now += 50
    assert known.enter("a") == GO
    known.leave("a", FAILED)
    assert known.enter("a").rests


def test_resting_hosts_are_given_up_when_nothing_else_is_left() -> None:
    clock = Clock()
    turns = Turns([Task(place, "u", "ab"[place % 2]) for place in range(6)], hosts(clock, host_failures=1))
    bad, good = asked(turns, clock)
    turns.done(bad, FAILED)
    assert not turns.only_rest
    turns.done(good, FINE)
    for task in asked(turns, clock):
        assert task.host == "b"
        turns.done(task, FINE)
    assert turns.only_rest
    assert [task.place for task in turns.give_up()] == [2, 4]
    assert turns.is_over


def test_what_processes_share(tmp_path: Path) -> None:
    """Pauses by the file; connections by locks, which another process sees (`test_courtesy.py`)."""
    clock = Clock()
    one, other = hosts(clock, tmp_path), hosts(clock, tmp_path)
    one.leave("a", Outcome(True, 429, 5.0))
    assert other.enter("a").wait_s == 5
    assert (tmp_path / "hosts").stat().st_size < 4_000_000


def test_a_million_hosts_take_no_memory() -> None:
    known = hosts(Clock())
    for number in range(3_000):
        assert known.enter(f"host-{number}.example") == GO
        known.leave(f"host-{number}.example", FAILED)
    assert not known._held
    assert NUM_RECORDS * 56 < 4_000_000


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("Sat, 28 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 28 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("9" * 400, 9_999_999_999.0),
        (None, 0.0),
    ],
)
def test_retry_after(value: str | None, seconds: float) -> None:
    assert retry_after_s(value, datetime(2026, 11, 28, 12, tzinfo=UTC)) == seconds
