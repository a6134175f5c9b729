"""Spikes of the loss are found and counted, at the right steps, and nothing else is taken for one."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from blip_training.runtime.workers import Worker
from blip_training.train.log import TrainingLog
from blip_training.train.run import Run
from blip_training.watch.spikes import LEAST, WINDOW, Spikes
from tests.support.drawn import optimizer_config

CPU = Worker(torch.device("cpu"))
PARTS = ["itc", "itm", "loss"]


def noisy(count: int, level: float = 6.0, seed: int = 0) -> list[float]:
    return (level + 0.1 * np.random.default_rng(seed).standard_normal(count)).tolist()


def found_in(spikes: Spikes, losses: list[float], each: int = 20, parts: list[str] | None = None) -> list[int]:
    """The steps of the spikes, looked for every `each` steps, as lines are written; the first step is 1."""
    found = []
    for first in range(0, len(losses), each):
        line = dict(enumerate(losses[first : first + each], start=first + 1))
        found += [step for step, _, _ in spikes.find(line, parts or PARTS)]
    return found


def test_a_spike_is_found_at_its_step() -> None:
    losses = noisy(600)
    losses[419] += 2.0
    spikes = Spikes()
    assert found_in(spikes, losses) == [420]
    assert spikes.count == 1


@pytest.mark.parametrize("seed", range(5))
def test_even_noise_has_no_spike(seed: int) -> None:
    assert found_in(Spikes(), noisy(5000, seed=seed)) == []


def test_a_falling_loss_and_its_first_steps_have_no_spike() -> None:
    steps = np.arange(3000)
    losses = 3 + 9 * np.exp(-steps / 300) + 0.05 * np.random.default_rng(0).standard_normal(3000)
    assert found_in(Spikes(), losses.tolist()) == []
    assert found_in(Spikes(), [1.0] * (LEAST - 1) + [99.0], each=1) == []


def test_a_loss_that_hardly_differs_needs_a_twentieth_more() -> None:
    spikes = Spikes()
    assert found_in(spikes, [2.0] * 200 + [2.09] + [2.0] * 39) == []
    assert found_in(spikes, [2.0] * 20 + [2.11] * 20) == list(range(21, 41))


def test_a_part_that_joins_the_loss_is_a_new_level() -> None:
    spikes = Spikes()
    assert found_in(spikes, noisy(400), parts=["itc", "loss"]) == []
    assert found_in(spikes, noisy(400, 6.7), parts=["itc", "itm", "loss"]) == []


def test_the_window_is_limited_and_spikes_do_not_hide_the_next() -> None:
    losses = noisy(2 * WINDOW)
    for at in range(WINDOW, 2 * WINDOW, 50):
        losses[at] += 3.0
    spikes = Spikes()
    assert found_in(spikes, losses) == [at + 1 for at in range(WINDOW, 2 * WINDOW, 50)]
    assert len(spikes.before) == WINDOW


def test_a_restart_goes_on_with_what_was_seen() -> None:
    losses = noisy(300)
    first, whole = Spikes(), Spikes()
    found_in(first, losses[:200])
    again = Spikes()
    again.restore(json.loads(json.dumps(first.state())))
    later = [*losses[200:], 9.0]
    assert [one[1] for one in again.find(dict(enumerate(later)), PARTS)] == [9.0]
    found_in(whole, losses[:200])
    whole.find(dict(enumerate(later)), PARTS)
    assert again.state() == whole.state()


def write_line(log: TrainingLog, first: int, losses: list[float]) -> None:
    for step, loss in enumerate(losses, start=first):
        log.add({"loss": torch.tensor(loss)})
        log.watch(step, torch.tensor(loss))
        log.note()
    log.write(first + len(losses) - 1, 1)


def test_the_log_tells_a_spike_once_and_counts_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = TrainingLog(tmp_path / "metrics.jsonl", True, None)
    log.start(0)
    for first in range(1, 201, 20):
        write_line(log, first, [2.0] * 20)
    with caplog.at_level(logging.WARNING):
        write_line(log, 201, [2.0] * 18 + [7.0, 8.0])
        write_line(log, 221, [9.0] + [2.0] * 19)  # goes on from the line before: told already
    assert [record.getMessage() for record in caplog.records] == [
        "step 219: a loss of 7, where the steps before it have 2 in the middle: a spike (2 so far)"
    ]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("loss_spikes") for line in lines[-3:]] == [None, 2, 3]


def spiky(out: Path, stop: int) -> Run:
    """Trains one weight up to step `stop` of 240; the loss of step 215 is 50 times as large."""
    weight = nn.Parameter(torch.tensor([1.0]))
    module = nn.Module()
    module.register_parameter("weight", weight)
    config = optimizer_config(steps=240, lr=1e-9, log_every_steps=20, checkpoint_every_steps=50)
    run = Run(out, module, config, CPU)
    for step in run.count():
        if step == stop:
            break
        run.backward({"itc": weight.sum() * (50.0 if step == 214 else 1.0)})
        run.update()
    return run


def test_a_resumed_training_counts_as_one_that_was_not_killed(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    out.mkdir()
    spiky(out, 212)
    resumed = spiky(out, 1000).finish()
    assert resumed["loss_spikes"] == 1
    whole = tmp_path / "whole"
    whole.mkdir()
    assert spiky(whole, 1000).finish()["loss_spikes"] == 1
