"""Counts from workers: each step's own, on Ray in one actor; one that cannot be reached fails no step."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap import progress as progress_module
from blip_bootstrap.config import RayConfig
from blip_bootstrap.progress import Progress
from blip_pipelines.cluster import tally as tally_module
from blip_pipelines.cluster.items import Pool, run_items
from blip_pipelines.cluster.ray_items import TELL_S, Noting
from blip_pipelines.cluster.ray_tally import start_tally
from blip_pipelines.cluster.session import connect
from blip_pipelines.cluster.tally import Counts, Tally, shown


@pytest.mark.ray
def test_tallies_of_one_driver_are_apart_and_share_an_actor(ray_config: RayConfig) -> None:
    connect(ray_config)
    one, other = start_tally(), start_tally()
    one.put("a", {"images": 1})
    one.put("b", {"images": 2, "success": 1})
    one.put("a", {"images": 3})  # done again: replaces what was there
    other.put("a", {"images": 10})
    assert one.total() == {"images": 5, "success": 1}
    assert other.total() == {"images": 10}
    assert one._actor is other._actor
    one.forget()
    assert one.total() == {}
    assert other.total() == {"images": 10}


class Gone(Tally):
    """A tally whose actor is dead."""

    def total(self) -> dict[str, int]:
        raise ConnectionError("the actor is dead")

    def forget(self) -> None:
        raise ConnectionError("the actor is dead")


def test_a_tally_that_is_gone_fails_no_step(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(progress_module, "_failures", set())
    monkeypatch.setattr(tally_module, "POLL_S", 0.01)
    done = []
    with Progress("download", 3, unit="images") as progress, shown(progress, Gone(), {}):
        time.sleep(0.1)  # the thread that polls fails some ten times
        done.append("work")
    assert done == ["work"]
    assert caplog.messages == ["progress cannot be shown (ConnectionError: the actor is dead); the work goes on"]


class Killing:
    """A worker whose first item ends the actor that the counts go to."""

    def __init__(self, *, tally: Counts) -> None:
        self._tally: Any = tally

    def __call__(self, item: int) -> list[int]:
        import ray

        if item == 0:
            ray.kill(self._tally._tally._actor)
            time.sleep(1)
        self._tally.put(str(item), {"images": 1})
        return [item]


@pytest.mark.ray
def test_the_death_of_the_actor_fails_no_step_and_the_next_has_another(tmp_path: Path, ray_config: RayConfig) -> None:
    connect(ray_config)
    before, found = start_tally(), list[int]()
    with Progress("download", 3, unit="images") as progress:
        run_items("download", [0, 1, 2], Killing, Pool(2), found.append, progress, {})
    assert sorted(found) == [0, 1, 2]
    after = start_tally()
    assert after._actor is not before._actor
    after.put("a", {"images": 1})
    assert after.total() == {"images": 1}


def test_a_worker_tells_of_its_counts_now_and_then_and_when_an_item_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """One actor hears of the workers of a whole cluster: a call for each batch would be too many."""
    told: list[tuple[str, int]] = []

    class Hearing(Tally):
        def put(self, unit: str, counts: dict[str, int]) -> None:
            told.append((unit, counts["images"]))
            super().put(unit, counts)

    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    hearing = Hearing()
    noting = Noting(hearing)
    for done in range(1, 41):
        noting.put("a", {"images": done, "retries": 1})
    assert told == [("a", 1)], "the first at once"
    now[0] += TELL_S
    noting.put("a", {"images": 41, "retries": 1})
    noting.put("b", {"images": 7, "retries": 2})
    assert told == [("a", 1), ("a", 41)]
    assert noting.item_is_done() == 3
    assert told[2:] == [("b", 7)]
    assert hearing.total() == {"images": 48, "retries": 3}
    assert noting.item_is_done() == 0
