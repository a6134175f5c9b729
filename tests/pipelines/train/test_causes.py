"""Why an attempt of several workers failed: the first cause is told, not what it did to the others."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerHealthCheckFailedError

from blip_pipelines.failures.errors import packed
from blip_pipelines.train import causes
from blip_pipelines.train.causes import RAISED, STALLED, cause_of

CLOSED = RuntimeError("Connection closed by peer [10.0.0.4]:41234")

DIED = (
    "The actor died unexpectedly before finishing this task.\n\tpid: 7\n\tip: 10.0.0.4\nThe actor is dead because its"
)


def error_of(death: Exception | None) -> WorkerGroupError:
    failures: dict[int, Exception] = {0: CLOSED}
    if death:
        failures[2] = WorkerHealthCheckFailedError("A worker health check failed.", death)
    return WorkerGroupError("...", failures)


def died(why: str) -> ActorDiedError:
    error = ActorDiedError()
    error.error_msg = f"{DIED} {why}"
    return error


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an attempt leaves whose other workers have lost their neighbour; the machines b and c live."""
    monkeypatch.setattr(causes, "machines", lambda: {"b": "10.0.0.3", "c": "10.0.0.4"})
    (tmp_path / RAISED).write_bytes(pickle.dumps(packed(CLOSED)))
    return tmp_path


def test_a_lost_machine_is_told_by_its_address(scratch: Path) -> None:
    before = {"a": "10.0.0.2", "b": "10.0.0.3", "d": "10.0.0.5"}
    assert cause_of(error_of(died("node has died.")), scratch, before) == "lost machines 10.0.0.2, 10.0.0.5"


@pytest.mark.parametrize(
    ("death", "told"),
    [
        (died("worker process has died."), "rank 2 died on 10.0.0.4: its process crashed or was killed"),
        (died("owner ran out: memory on the node was low"), "rank 2 was ended on 10.0.0.4 for want of memory"),
        (OutOfMemoryError("Task was killed"), "rank 2 was ended for want of memory"),
        (None, "RuntimeError: Connection closed by peer [10.0.0.4]:41234"),
    ],
)
def test_who_died_is_told_and_not_who_lost_the_connection(scratch: Path, death: Exception | None, told: str) -> None:
    assert cause_of(error_of(death), scratch, {"b": "10.0.0.3"}) == told


def test_what_kept_the_workers_from_starting_is_told(scratch: Path) -> None:
    (scratch / RAISED).unlink()
    error = ControllerError(WorkerGroupStartupFailedError("One of the worker actors failed to initialize\nand more"))
    assert cause_of(error, scratch, {}) == "One of the worker actors failed to initialize"


def test_who_stood_still_is_told_before_all_else(scratch: Path) -> None:
    (scratch / STALLED).write_bytes(pickle.dumps("rank 1 of 2 (b) has stalled"))
    assert cause_of(error_of(died("node has died.")), scratch, {"a": "10.0.0.2"}) == "rank 1 of 2 (b) has stalled"
