"""Trackers get the lines of the log; a tracker that fails or lacks its package is one line, and ends no training."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c
from torch import nn

from blip_bootstrap.config import TrackerName
from blip_bootstrap.errors import InputError
from blip_training.runtime.workers import Worker
from blip_training.train.log import TrainingLog
from blip_training.train.run import Run
from blip_training.watch.trackers import PACKAGES, Trackers, check_trackers
from tests.support.drawn import optimizer_config, read_log


def points(folder: Path) -> list[tuple[int, str, float]]:
    """The points in a folder's event files, as TensorBoard reads them: (step, name, value), without what was purged."""
    found: list[tuple[int, str, float]] = []
    for file in sorted(folder.glob("events.out.tfevents.*"), key=lambda one: one.stat().st_mtime_ns):
        for event in events_of(file.read_bytes()):
            if event.session_log.status == event.session_log.START:
                found = [one for one in found if one[0] < event.step]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def events_of(content: bytes) -> list[Event]:
    """The records of an event file: length, its checksum, content, its checksum."""
    events, at = [], 0
    while at < len(content):
        length = int.from_bytes(content[at : at + 8], "little")
        record = content[at + 12 : at + 12 + length]
        assert int.from_bytes(content[at + 12 + length : at + 16 + length], "little") == masked_crc32c(record)
        events.append(Event.FromString(record))
        at += 16 + length
    return events


def train(out: Path, stop: int = 99, **settings: Any) -> dict[str, int | float]:
    """Twelve steps of one layer with a line each, and checkpoints at every fourth; left at `stop`."""
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    module = nn.Linear(2, 1)
    config = optimizer_config(steps=12, checkpoint_every_steps=4, **settings)
    run = Run(out, module, config, Worker(torch.device("cpu")))
    for step in run.count():
        if step == stop:
            run.log.close()  # waits for what is on its way to the file
            return {}
        run.backward({"lm": module(torch.full((1, 2), float(step))).square().mean()})
        run.update()
    return run.finish()


def test_tensorboard_has_the_lines_of_the_log_once_after_a_kill_too(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, stop=10, trackers=("tensorboard",))
    assert [step for step, name, _ in points(out) if name == "lm"] == list(range(1, 11))  # two after the checkpoint
    train(out, trackers=("tensorboard",))
    lines = read_log(out)
    found = [(step, value) for step, name, value in points(out) if name == "lm"]
    assert [step for step, _ in found] == list(range(1, 13))
    assert [value for _, value in found] == pytest.approx([line["lm"] for line in lines])
    assert {name for _, name, _ in points(out)} >= {"loss", "lr", "grad_norm", "samples_per_s", "feed_wait"}


class StubRun:
    def __init__(self, told: dict[str, Any]) -> None:
        self.told, self.finished = told, False
        self.lines: list[tuple[int, dict[str, float]]] = []

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.lines.append((step, dict(figures)))

    def finish(self) -> None:
        self.finished = True


def stub(monkeypatch: pytest.MonkeyPatch, name: TrackerName) -> list[StubRun]:
    """A package with the calls of the real one that are used; its runs."""
    runs: list[StubRun] = []
    package = ModuleType(PACKAGES[name])
    package.__spec__ = type(sys.__spec__)(PACKAGES[name], None)

    def init(**told: Any) -> StubRun:
        runs.append(StubRun(told))
        return runs[-1]

    package.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, PACKAGES[name], package)
    return runs


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_training_goes_on_in_the_same_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: TrackerName
) -> None:
    runs = stub(monkeypatch, name)
    train(tmp_path / "run", stop=6, trackers=(name,), tracker_project="birds")
    train(tmp_path / "run", trackers=(name,), tracker_project="birds")
    first, second = runs
    assert first.told == second.told
    assert first.told["project"] == "birds"
    assert first.told["resume"] == "allow"
    assert [step for step, _ in second.lines] == list(range(5, 13))
    assert second.lines[-1][1]["loss"] == pytest.approx(read_log(tmp_path / "run")[-1]["loss"])
    assert second.finished
    train(tmp_path / "other", trackers=(name,))
    assert runs[2].told != first.told


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_told_once_and_ends_no_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    runs = stub(monkeypatch, "wandb")

    def fail(*args: Any, **options: Any) -> None:
        raise ConnectionError("no route\nto host")

    if where == "init":
        monkeypatch.setattr(sys.modules["wandb"], "init", fail)
    else:
        monkeypatch.setattr(StubRun, where, fail)
    with caplog.at_level(logging.WARNING):
        assert train(tmp_path / "run", trackers=("wandb", "tensorboard"))["steps"] == 12
    said = "wandb: left out from now on (ConnectionError: no route to host); metrics.jsonl has all"
    assert [record.getMessage() for record in caplog.records] == [said]
    assert len([one for one in points(tmp_path / "run") if one[1] == "lm"]) == 12
    assert len(runs) == (where != "init")


def test_a_package_that_lacks_is_told_before_the_first_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(PACKAGES, "trackio", "a_package_that_nobody_has")
    with pytest.raises(InputError, match=r"trackio needs the package a_package_that_nobody_has; install it: pip"):
        train(tmp_path / "run", trackers=("trackio",))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_nothing_is_imported_that_is_not_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in PACKAGES.values():
        monkeypatch.setitem(sys.modules, package, None)  # importing it would raise
    assert train(tmp_path / "run")["steps"] == 12
    assert not list(tmp_path.rglob("events.*"))


def test_only_the_first_worker_has_trackers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs = stub(monkeypatch, "wandb")
    TrainingLog(tmp_path / "log", writes=False, on_step=None, trackers=Trackers(("wandb",))).start(0)
    assert not runs
    check_trackers(())
    Trackers().close()
