"""An actor that captions a sample, and says how long that took."""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa

from blip_bootstrap.config import CaptionConfig
from blip_pipelines.caption.blocks import BLOCK_ROWS, num_threads
from blip_pipelines.cluster.resources import peak_bytes
from blip_pipelines.scoring.references import first_readable
from blip_pipelines.scoring.rows import CaptionRow, to_table

DECODED_IMAGES = 32


class SampledCaptioning:
    """A Ray actor that captions a sample and says how long that took; needs no Ray itself."""

    def __init__(self, captioner: str | None, filter: str, config: CaptionConfig, num_lanes: int = 1) -> None:
        self._arguments = captioner, filter, config, num_threads(config), num_lanes

    def load(self) -> None:
        """Load the models; not in the constructor, where Ray would hide the error."""
        from blip_pipelines.caption.worker import CaptionWorker  # torch, where captions are made

        self._worker = CaptionWorker(*self._arguments)

    def measure(self, images: pa.Table, limit_s: float) -> dict[str, Any]:
        """Seconds an image, once it runs, and those of its decoding alone; the captions; this process's peak memory.

        The sample's own first pictures are the references.
        """
        self._worker.compare_with(first_readable(images.to_pylist(), self._worker.config.references))
        if self._worker.device.type == "cuda":
            captions = self._worker(images).to_pylist()
            seconds = self._seconds_of_a_block(images)
        else:
            seconds, captions = self._seconds_of_batches(images, limit_s)
        return {
            "seconds": seconds,
            "decode_s": self._decode_s(images.slice(0, DECODED_IMAGES)),
            "captions": captions,
            "images": sum(row["source"] == "web" for row in captions),
            "peak_bytes": peak_bytes(),
            "plugged_in": self._plugged_in(),
        }

    def _plugged_in(self) -> dict[str, float]:
        """Seconds a text of each captioner of `caption.writers` and judge of `caption.judges`, by its setting."""
        found = {f"caption.writers.{one.config.name}": (one.seconds, one.num_asked) for one in self._worker.writers.all}
        found |= {f"caption.judges.{one.config.name}": (one.seconds, one.num_asked) for one in self._worker.judges.all}
        return {name: seconds / count for name, (seconds, count) in found.items() if count}

    def _seconds_of_a_block(self, images: pa.Table) -> float:
        """Seconds an image takes in a second block, for a GPU, which takes hundreds at once: its first are decoded."""
        rows = images.to_pylist()
        block = (rows * -(-BLOCK_ROWS // len(rows)))[:BLOCK_ROWS]
        ends = [time.perf_counter() for _, is_last in self._worker.in_blocks([block, block]) if is_last]
        num_images: int = sum(row["status"] == "success" for row in block)
        return (ends[1] - ends[0]) / num_images

    def _seconds_of_batches(self, images: pa.Table, limit_s: float) -> tuple[float, list[dict[str, Any]]]:
        """Seconds an image takes, in batches small enough that the sample has several; and their captions."""
        worker = self._worker
        worker.batch_size = min(worker.batch_size, max(1, len(images) // 4))
        captions: list[CaptionRow] = []
        ends, num_done, started = [], [], time.perf_counter()
        for rows in worker.in_batches(images.to_pylist()):
            captions += rows
            ends.append(time.perf_counter())
            num_done.append(sum(row.source == "web" for row in captions))
            if len(ends) > 1 and ends[-1] - started > limit_s:
                break
        first = (ends[0], num_done[0]) if len(ends) > 1 else (started, 0)  # the first batch pays what is done once
        return (ends[-1] - first[0]) / (num_done[-1] - first[1]), to_table(captions).to_pylist()

    def _decode_s(self, images: pa.Table) -> float:
        worker = self._worker
        rows, started = images.to_pylist(), time.perf_counter()
        for row in rows:
            worker.decode(row)
        return (time.perf_counter() - started) / len(rows) / worker.num_decoders
