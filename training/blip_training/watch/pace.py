"""How fast a training goes, and what holds it up: its share of the device's peak, and waits for batches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

from blip_training.model.flops import Flops
from blip_training.runtime.gpus import peak_of

T = TypeVar("T")

FIGURES = ("samples_per_s", "feed_wait", "mfu", "gpu_memory_gib")
"""What `Pace.figures` may have; these figures differ between two runs of one training."""


class Pace:
    """Counts steps, waits and operations of this worker since the last line of the log.

    `peak` is what the device can do, operations a second; None: it is not known, and nothing is counted.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.gpu = device if device is not None and device.type == "cuda" else None
        self.peak = peak_of(torch.cuda.get_device_name(self.gpu)) if self.gpu is not None else None
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self.clock = time.perf_counter()
        self.waited_s, self.steps = 0.0, 0
        self.flops: Tensor | float = 0.0

    def waiting(self, feed: Iterator[T]) -> Iterator[T]:
        """The items of `feed`; the time until each comes is time waited for."""
        while True:
            asked = time.perf_counter()
            try:
                item = next(feed)
            except StopIteration:
                return
            self.waited_s += time.perf_counter() - asked
            yield item

    def did(self, flops: Flops, mask: Tensor) -> None:
        """Add the operations of a micro-batch: one image and one text for each row of `mask` [B, T]."""
        if self.peak is not None:
            lengths = mask.sum(1).double()  # on the device, which is waited for once a line
            self.flops = self.flops + flops.of(len(mask), lengths.sum(), lengths.square().sum())

    def figures(self, batch_size: int) -> dict[str, float]:
        """The figures since `start`, which is called again.

        samples_per_s of all workers; feed_wait: share (0..1) of the time in which this worker waited for its batch;
        mfu: its useful operations as a share (0..1) of what the device can do in bfloat16; gpu_memory_gib: the most
        that was allocated. The last two only where a GPU, and its peak, are known.
        """
        seconds = max(time.perf_counter() - self.clock, 1e-9)
        found = {"samples_per_s": self.steps * batch_size / seconds, "feed_wait": min(1.0, self.waited_s / seconds)}
        if self.peak is not None and (done := float(self.flops)):
            found["mfu"] = done / (seconds * self.peak)
        if self.gpu is not None:
            found["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self.gpu) / 2**30
        self.start()
        return found
