from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from blip_bootstrap.config import RayConfig
from blip_pipelines.failures import limits, tries
from blip_pipelines.failures.limits import Limits, Pace, Watch, held_bytes


@pytest.mark.parametrize(
    ("taken", "num_rows", "expected"),
    [(None, 64, 640.0), (None, 1, 100.0), (64.0, 64, 640.0), (0.64, 64, 12.8), (0.064, 64, 10.0), (64.0, 1, 10.0)],
)
def test_a_batch_may_take_what_those_before_it_took(taken: float | None, num_rows: int, expected: float) -> None:
    """The setting is 10 s a row; `taken` are the seconds of a batch of 64 rows before it."""
    pace = Pace(10.0)
    if taken is not None:
        pace.note(64, taken)
    assert pace.limit_s(num_rows) == pytest.approx(expected)


def watched(limits_: Limits, seconds: float) -> list[int]:
    ended: list[int] = []
    with Watch("test", limits_, ended.append).watching() as watch, watch.batch(1):
        end = time.monotonic() + seconds
        while not ended and time.monotonic() < end:
            time.sleep(0.01)
    return ended


def test_what_hangs_or_grows_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(limits, "CHECK_S", 0.01)
    assert watched(Limits(0.01), 60) == [1]
    assert (
        "test  a batch is not done after 0 s (ray.row_timeout_s); the same command goes on" in capsys.readouterr().err
    )
    assert watched(Limits(600, memory_bytes=1_000_000), 60) == [1]
    assert "of memory (ray.worker_memory_bytes); the same command goes on" in capsys.readouterr().err
    assert watched(Limits(600, memory_bytes=10**15), 0.2) == []
    assert capsys.readouterr().err == ""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often the clock of C code was armed and stopped."""
    counts = {"armed": 0, "stopped": 0}

    def arm(*_: object, **__: object) -> None:
        counts["armed"] += 1

    def stop() -> None:
        counts["stopped"] += 1

    monkeypatch.setattr("faulthandler.dump_traceback_later", arm)
    monkeypatch.setattr("faulthandler.cancel_dump_traceback_later", stop)
    return counts


def test_rows_of_a_millisecond_arm_the_clock_of_c_code_once(
    clock: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHECK_S", 3600)
    monkeypatch.setattr(limits, "PACE_FACTOR", 1e12)
    with Watch("test", Limits(5)).watching() as watch:
        for _ in range(1000):
            with watch.batch(1):
                pass
        assert clock == {"armed": 1, "stopped": 0}
        with watch.batch(1000):
            assert clock["armed"] == 2  # it may take longer than what was armed for
    assert clock == {"armed": 2, "stopped": 1}


def test_between_batches_anything_may_take_its_time(clock: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHECK_S", 0.01)
    with Watch("test", Limits(5)).watching() as watch:
        with watch.batch(1):
            pass
        end = time.monotonic() + 30
        while not clock["stopped"] and time.monotonic() < end:
            time.sleep(0.01)
        assert clock == {"armed": 1, "stopped": 1}
        with watch.batch(1):
            assert clock["armed"] == 2


def test_memory_that_is_held() -> None:
    assert held_bytes(os.getpid()) > 10_000_000
    assert held_bytes(2**30) == 0


def test_limits_are_the_settings() -> None:
    assert Limits.of(RayConfig(row_timeout_s=5, worker_memory_bytes=7)) == Limits(5, 7)


def test_an_item_is_suspect_after_two_deaths_and_no_more_once_it_is_made(tmp_path: Path) -> None:
    item = tmp_path / "blocks" / "part-00000.parquet"
    assert not tries.is_suspect(item)
    tries.begin(item)
    assert not tries.is_suspect(item)
    tries.begin(item)
    assert tries.is_suspect(item)
    tries.end(item)
    assert not tries.is_suspect(item)
    tries.end(item)
    assert list(item.parent.iterdir()) == []


def test_time_in_which_a_server_is_waited_for_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHECK_S", 0.01)
    ended: list[int] = []
    waiting = [True]
    watch = Watch("test", Limits(0.05), ended.append, waits=lambda: waiting[0])  # half a second for a first batch
    with watch.watching(), watch.batch(1):
        time.sleep(1.5)
        assert not ended
        waiting[0] = False
        end = time.monotonic() + 60
        while not ended and time.monotonic() < end:
            time.sleep(0.01)
    assert ended == [1]
