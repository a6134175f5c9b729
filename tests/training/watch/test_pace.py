"""Pace: shares of the time since the last line, of the device's peak, and what is counted where."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from blip_training.model.flops import Flops
from blip_training.watch import pace as module
from blip_training.watch.pace import Pace


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=found.perf_counter))
    return found


def test_waits_are_a_share_of_the_time_since_the_last_line(clock: Clock) -> None:
    def feed() -> Iterator[int]:
        for number in range(4):
            clock.now += 0.5  # what the batch takes
            yield number

    pace = Pace()
    for _ in pace.waiting(feed()):
        clock.now += 1.5  # what the step takes
        pace.steps += 1
    assert pace.figures(batch_size=32) == {"samples_per_s": 16.0, "feed_wait": 0.25}
    clock.now += 2.0
    pace.steps = 1
    assert pace.figures(batch_size=32) == {"samples_per_s": 16.0, "feed_wait": 0.0}


def test_use_of_the_peak_counts_tokens_without_padding(clock: Clock) -> None:
    pace = Pace()
    pace.peak = 1000.0
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    pace.did(Flops(image=10.0, token=3.0, square=2.0), mask)
    pace.did(Flops(image=10.0), mask)
    clock.now += 0.5
    assert pace.figures(1)["mfu"] == pytest.approx((20 + 3 * 4 + 2 * (9 + 1) + 20) / 500)


def test_an_unknown_device_has_no_peak_and_no_figure(clock: Clock) -> None:
    pace = Pace(torch.device("cpu"))
    pace.did(Flops(1.0), torch.ones(2, 2))
    clock.now += 1.0
    assert set(pace.figures(1)) == {"samples_per_s", "feed_wait"}


@pytest.mark.parametrize(("name", "has_peak"), [("NVIDIA H200", True), ("NVIDIA Unheard Of", False)])
def test_a_gpu_has_memory_and_if_it_is_known_a_peak(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, name: str, has_peak: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**29)
    pace = Pace(torch.device("cuda"))
    pace.did(Flops(1.0), torch.ones(2, 2))
    clock.now += 1.0
    found = pace.figures(1)
    assert found["gpu_memory_gib"] == 1.5
    assert ("mfu" in found) == has_peak
