"""What a training does that finds no room on the cluster: it waits, says for what, settles for fewer, and ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from blip_bootstrap.errors import RunFailed
from blip_pipelines.train import room
from blip_pipelines.train.runner import Training

Places = Callable[[int, float], bool]
"""Whether so many workers can be placed after so many seconds."""


class Stand:
    """A cluster and a clock: nodes with so many CPUs each, where `places` says what else uses them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, places: Places, cpus: list[float]) -> None:
        self.now, self.places, self.held = 0.0, places, 0
        self.nodes = [{"Alive": True, "Resources": {"CPU": one, "GPU": one / 2}} for one in cpus]
        self.nodes.append({"Alive": False, "Resources": {"CPU": 99.0}})
        self.done: Callable[[float], bool] = lambda now: False
        monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(room, "ray", SimpleNamespace(nodes=lambda: self.nodes, wait=self._wait))
        monkeypatch.setattr(room, "_asked", self._asked)

    @contextmanager
    def _asked(self, number: int, gpu: bool) -> Iterator[Any]:
        self.held += 1

        def wait(seconds: float) -> bool:
            placed = self.places(number, self.now)
            self.now += 0 if placed else seconds
            return placed

        yield SimpleNamespace(wait=wait)
        self.held -= 1

    def _wait(self, tasks: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        if self.done(self.now):
            return tasks[:1], tasks[1:]
        self.now += timeout
        return [], tasks


def job(num_workers: int, *sizes: int) -> Training:
    return Training("pretrain", Path("out"), 9, dict, num_workers, sizes=sizes or (num_workers,))


def test_where_there_is_room_nothing_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    stand = Stand(monkeypatch, lambda number, now: True, [2, 2])
    assert room.wait_for_room(job(4), False, 60.0) == 4
    assert (caplog.text, stand.held) == ("", 0)


def test_it_says_once_what_it_waits_for_and_goes_on_when_nodes_come(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    Stand(monkeypatch, lambda number, now: now > 300, [2])
    assert room.wait_for_room(job(3), False, 3600.0) == 3
    first, second = (record.getMessage() for record in caplog.records)
    assert first == (
        "pretrain: waits for room for 3 workers, a CPU each: the cluster has 2 CPUs on 1 node, or others use them; "
        "after 3,600 s it ends (ray.nodes_timeout_s); start nodes (`ray start --address=HEAD:6379`), or stop this (the "
        "same command goes on)"
    )
    assert second == "pretrain: there is room now; goes on with 3 workers"


def test_after_ten_minutes_as_many_go_on_as_there_is_room_for_and_share_the_batch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand = Stand(monkeypatch, lambda number, now: number <= 7, [4, 3])
    assert room.wait_for_room(job(8, 2, 4, 8), False, 3600.0) == 4
    assert 600 <= stand.now < 660
    assert "from 600 s on it goes on with 2 or more, and after 3,600 s it ends" in caplog.text
    assert caplog.text.rstrip().endswith("pretrain: goes on with 4 workers of 8: there is room for no more")


def test_what_others_use_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(monkeypatch, lambda number, now: number <= 3, [8])
    assert room.wait_for_room(job(8, 2, 4, 8), False, 60.0) == 2
    assert stand.now < 100


def test_it_ends_with_what_to_do_where_no_machine_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(monkeypatch, lambda number, now: False, [2, 1.5])
    told = (
        r"^pretrain: no room for 8 workers, a CPU and a GPU each in 90 s, the cluster has 3.5 CPUs and 1.75 GPUs on 2 "
        r"nodes; add machines, or set num_workers or min_workers lower, and run the same command again to go on$"
    )
    with pytest.raises(RunFailed, match=told):
        room.wait_for_room(job(8, 4, 8), True, 90.0)
    assert 90 <= stand.now < 130


def test_parts_of_cpus_on_several_nodes_are_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    Stand(monkeypatch, lambda number, now: True, [0.5, 2.5, 0.5])
    assert (room.room_for(False), room.room_for(True)) == (2, 1)


def test_a_task_that_no_machine_could_run_is_told_and_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand = Stand(monkeypatch, lambda number, now: False, [0.0])
    with pytest.raises(
        RunFailed, match=r"^evaluate: no machine for it in 120 s, the cluster has 0 CPUs on 1 node; run"
    ):
        room.first_done(["a"], "evaluate", False, 120.0)
    assert 120 <= stand.now < 180
    assert (
        caplog.text.count("evaluate: waits for a worker with a CPU: the cluster has 0 CPUs on 1 node; after 120 s") == 1
    )


def test_a_task_that_takes_long_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand = Stand(monkeypatch, lambda number, now: False, [1.0])
    stand.done = lambda now: now > 10_000
    assert room.first_done(["a", "b"], "evaluate", False, 120.0) == "a"
    assert caplog.text == ""
