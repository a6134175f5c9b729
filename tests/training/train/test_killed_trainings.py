"""A training killed by SIGKILL at ten random moments, after its last step too: no step is lost beyond a checkpoint."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from blip_bootstrap.loop.artifacts import finish
from blip_bootstrap.storage.manifest import describe_files, manifest_of
from blip_training.checkpoint.store import _write_weights as write_weights
from blip_training.runtime.workers import Worker
from blip_training.train.checkpoint_files import newest_step
from blip_training.train.pretrain import pretrain_model
from blip_training.train.run import Run
from tests.support.drawn import optimizer_config, pretrain_config, read_log

STEPS, EVERY = 12, 3

KILLED_AT: tuple[int | str, ...] = (2, 4, 1, 3, 2, 4, 3, "trained", "trained", "trained")
"""How many steps a process has done by itself when it is killed; `trained`: all of them, and nothing is published."""

Note = Callable[[object], None]


def train_layer(out: Path, world: Path, note: Note) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 1)
    config = optimizer_config(steps=STEPS, checkpoint_every_steps=EVERY, log_every_steps=1)
    run = Run(out, layer, config, Worker(torch.device("cpu")), on_step=lambda step, _: note(step))
    for _ in run.count():
        run.backward({"loss": layer(torch.randn(4, 8, generator=run.generator)).square().mean()})
        run.update()
        time.sleep(0.02)
    write_weights(out / "model.safetensors", layer.state_dict())
    run.finish()


def train_med(out: Path, world: Path, note: Note) -> None:
    def progress(step: int, figures: Mapping[str, float]) -> None:
        note(step)

    config = pretrain_config(world, steps=STEPS, checkpoint_every_steps=EVERY, log_every_steps=1)
    pretrain_model(out, world / "images", world / "pairs", world / "human", config, progress)


def publish(out: Path) -> None:
    """As a run does it once a step has ended: the MANIFEST, then what the step kept for itself goes."""
    finish(out, manifest_of("model", {"step": "pretrain", "inputs": {}}, None, {}, 0.0, describe_files(out)))


def work(train: Callable[[Path, Path, Note], None], out: Path, world: Path, notes: Path) -> None:
    """In the process that is killed: train, wait where the test kills it there, and publish."""
    torch.set_num_threads(1)
    descriptor = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(what: object) -> None:
        os.write(descriptor, f"{what}\n".encode())

    train(out, world, note)
    note("trained")
    while (out.parent / "wait").exists():
        time.sleep(0.01)
    publish(out)
    os._exit(0)


def attempt(train: Callable[..., None], out: Path, world: Path, notes: Path, at: int | str | None) -> list[str]:
    """One process, killed at a moment, if one is given: what it noted, steps and `trained`."""
    process = multiprocessing.get_context("fork").Process(target=work, args=(train, out, world, notes))
    process.start()
    while at and process.is_alive():
        noted = notes.read_text().split() if notes.exists() else []
        if at in noted or (isinstance(at, int) and len(noted) >= at):
            time.sleep(random.Random(str(notes)).uniform(0, 0.04))
            os.kill(process.pid or 0, signal.SIGKILL)
            break
        time.sleep(0.002)
    process.join()
    assert process.exitcode == (-signal.SIGKILL if at else 0)
    return notes.read_text().split()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("train", [train_layer, pytest.param(train_med, marks=pytest.mark.long)])
def test_no_step_is_lost_beyond_a_checkpoint(world: Path, tmp_path: Path, train: Callable[..., None]) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for out in (straight, killed):
        out.mkdir()
    attempt(train, straight, world, tmp_path / "notes", None)
    (tmp_path / "wait").touch()
    furthest = 0
    for number, at in enumerate(KILLED_AT):
        begins = newest_step(killed)
        assert begins >= (furthest - 1) // EVERY * EVERY
        moment = at if begins + (at if isinstance(at, int) else 0) <= STEPS else "trained"
        noted = attempt(train, killed, world, tmp_path / f"notes-{number}", moment)
        done = [int(one) for one in noted if one != "trained"]
        assert done == list(range(begins + 1, begins + 1 + len(done)))
        furthest = max([furthest, *done])
    assert furthest == newest_step(killed) == STEPS
    (tmp_path / "wait").unlink()
    assert attempt(train, killed, world, tmp_path / "last", None) == ["trained"]
    assert (straight / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    assert read_log(killed) == read_log(straight)
    names = [sorted(one.relative_to(out).as_posix() for one in out.rglob("*")) for out in (straight, killed)]
    assert names[0] == names[1]
    assert "MANIFEST.json" in names[0]
    assert not [name for name in names[0] if "checkpoint" in name]
