"""What fetching the images costs, and looking for the same pictures in two sets, measured on the first of them."""

from __future__ import annotations

from pathlib import Path

from blip_bootstrap.config import Config
from blip_bootstrap.planning.cost import Cost

CPU_BOUND = 0.7
"""Share of a fetching worker's time on the CPU from which its decoding and resizing bounds it, not the network."""


def measure_download(config: Config, images: Path, count: int) -> Cost:
    """The cost of the download; the `count` fetched rows are left in `images`. Raises InputError for a wrong list."""
    from blip_pipelines.ingest.probe import time_download  # loads torch

    found = time_download(images, config.download, config.ray, count)
    return Cost(
        "download",
        rows_per_image=1.0,
        bytes_per_image=sum(file.stat().st_size for file in images.iterdir()) / found.num_rows,
        seconds_per_image=found.seconds / found.num_rows,
        bound_by="CPU decode" if found.cpu_s / found.seconds > CPU_BOUND else "network",
        fixed_s=found.start_s,
        num_workers=found.num_workers,
        unit=config.download.rows_per_shard,
        worker_bytes=found.peak_bytes,
    )
