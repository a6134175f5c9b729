"""How many requests an endpoint is sent, when it rests, and what all workers may ask together."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from blip_pipelines.endpoints.ledger import STEP, Account, Ledger, noted_in
from blip_pipelines.endpoints.pool import WINDOW, Endpoint, Pool, rest_of


def endpoint(limit: float = 4.0, most: int = 32) -> Endpoint:
    return Endpoint("http://h/v1", most, limit)


def answer(one: Endpoint, count: int, in_flight: int | None = None) -> None:
    for _ in range(count):
        one.in_flight = int(one.limit) if in_flight is None else in_flight
        one.answered(time.monotonic())


def test_the_limit_doubles_until_the_first_cut_and_then_grows_by_about_one() -> None:
    one = endpoint()
    answer(one, 4)
    assert one.limit == 8
    answer(one, 8)
    assert one.limit == 16
    one.overloaded(time.monotonic(), None)
    assert one.limit == 8
    answer(one, 8)
    assert 8.9 < one.limit < 9.1
    answer(one, 1000)
    assert one.limit == one.most == 32


def test_a_deep_cut_is_made_up_for_faster() -> None:
    one = endpoint(limit=128, most=128)
    one.overloaded(time.monotonic(), None)
    assert one.limit == 64
    answer(one, 64)
    assert one.limit > 70  # an eighth of the 64 that lack, rather than one


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    one = endpoint(limit=8)
    answer(one, 100, in_flight=2)
    assert one.limit == 8


def test_requests_that_were_sent_before_a_cut_cut_no_more() -> None:
    one, sent_at = endpoint(limit=16), time.monotonic()
    for _ in range(10):
        one.overloaded(sent_at, None)
    assert (one.limit, one.num_cuts) == (8, 1)
    for _ in range(10):
        one.overloaded(time.monotonic(), None)
    assert one.limit == 1


def test_a_slower_server_is_asked_less() -> None:
    one = endpoint(limit=16)
    for seconds in (0.1, 0.3, 0.41):
        for _ in range(max(WINDOW, 16)):
            one.answered(time.monotonic() - seconds)
    assert one.num_cuts == 1
    assert one.limit == pytest.approx(16 * 0.8)


def test_who_is_not_reached_rests_longer_each_time() -> None:
    one, rests = endpoint(), []
    for _ in range(10):
        one.rests_until = 0.0
        one.unreached()
        one.unreached()  # others failed together with it
        rests.append(one.rests_until - time.monotonic())
    assert rests == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30], abs=0.2)
    assert one.limit == 1
    answer(one, 1)
    one.rests_until = 0.0
    one.unreached()
    assert one.rests_until - time.monotonic() == pytest.approx(0.5, abs=0.2)


def test_a_resting_server_is_left_alone_as_long_as_it_says() -> None:
    async def taken() -> list[float]:
        one, other = endpoint(), endpoint()
        one.overloaded(time.monotonic(), 0.2)
        other.broken = "answers 401"
        pool, began = Pool([one, other], 60), time.monotonic()

        async def take() -> float:
            assert await pool.take(None) is one
            return time.monotonic() - began

        return [*await asyncio.gather(take(), take())]

    assert all(0.2 <= seconds < 2 for seconds in asyncio.run(taken()))


def test_who_waits_is_told_when_nobody_is_left() -> None:
    async def taken() -> object:
        one = endpoint(limit=1)
        pool = Pool([one], 60)
        assert await pool.take(None) is one
        waiting = [asyncio.create_task(pool.take(None)) for _ in range(3)]
        await asyncio.sleep(0)
        one.broken = "answers 401"
        pool.give_back(one)
        return await asyncio.gather(*waiting)

    assert asyncio.run(taken()) == [None] * 3


def test_a_turn_that_was_given_to_who_left_is_another_s() -> None:
    async def taken() -> bool:
        one = endpoint(limit=1)
        pool = Pool([one], 60)
        await pool.take(None)
        first, second = (asyncio.create_task(pool.take(None)) for _ in range(2))
        await asyncio.sleep(0)
        pool.give_back(one)  # first has the turn
        first.cancel()
        return await asyncio.wait_for(second, 5) is one

    assert asyncio.run(taken())


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None), ({"Retry-After": "7"}, 7), ({"Retry-After": "0.5"}, 0.5), ({"Retry-After": "-3"}, 0),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25), ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None), ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)  # fmt: skip
def test_what_a_server_says_of_its_rest(headers: dict[str, str], seconds: float | None) -> None:
    assert rest_of(headers.get) == seconds


def test_a_rest_until_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert rest_of({"Retry-After": date}.get) == pytest.approx(30, abs=3)


def test_workers_together_keep_to_the_budget(tmp_path: Path) -> None:
    workers = [Ledger(tmp_path, most_requests=2 * STEP + 5) for _ in range(4)]
    taken = 0
    while any(given := [one.take() for one in workers]):
        taken += sum(given)
    assert taken <= 2 * STEP + 5
    for one in workers:
        for _ in range(one._in_flight):
            one.settle(10)
        one.write()
    while any(given := [one.take() for one in workers]):  # what others had noted ahead and not sent
        taken += sum(given)
    assert taken == 2 * STEP + 5


def test_what_a_killed_worker_had_noted_counts_as_sent(tmp_path: Path) -> None:
    killed = Ledger(tmp_path, most_requests=STEP + 3)
    assert killed.take()
    assert sum(Ledger(tmp_path, most_requests=STEP + 3).take() for _ in range(10)) <= 3


def test_of_two_notes_of_a_worker_the_last_counts(tmp_path: Path) -> None:
    for name in ("host.a-1-ff.9.10.100.spent", "host.a-1-ff.10.20.300.spent", "host-2-ee.1.1.1.spent", "other.txt"):
        (tmp_path / name).touch()
    assert noted_in(tmp_path) == {"host.a-1-ff": Account(20, 300), "host-2-ee": Account(1, 1)}
    assert Ledger(tmp_path).spent() == Account(21, 301)
    assert noted_in(tmp_path / "lacks") == {}


def test_a_request_that_was_not_sent_counts_for_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.take()
    ledger.settle(0, was_sent=False)
    ledger.write()
    assert Ledger(tmp_path).spent() == Account()


def test_tokens_of_others_are_seen_near_the_end(tmp_path: Path) -> None:
    one, other = (Ledger(tmp_path, most_tokens=1000) for _ in range(2))
    assert one.take()
    one.settle(950)
    one.write()
    assert other.take()  # it sees the note when it notes its first requests
    other.settle(60)
    assert not other.take()
