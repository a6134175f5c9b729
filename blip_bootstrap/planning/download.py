"""What fetching the images costs, and looking for the same pictures in two sets, measured on the first of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from blip_bootstrap.config import Config, same_pictures_config
from blip_bootstrap.machine import num_cores
from blip_bootstrap.planning.cost import Cost
from blip_bootstrap.planning.sample import Sample
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, write_parquet
from blip_pipelines.cluster.resources import peak_bytes
from blip_pipelines.duplicates.same_pictures import find_same_pictures

CPU_BOUND = 0.7
"""Share of a fetching worker's time on the CPU from which its decoding and resizing bounds it, not the network."""

NUM_THREADS = min(8, num_cores())
"""How many files the search for same pictures reads at a time."""

HASHED_IMAGES, HASHED_BYTES = 5_000, 200_000_000
"""The search is timed on the sample's pictures, repeated up to these: a few hundred take no time that can be told."""


def measure_download(config: Config, images: Path, count: int) -> Cost:
    """The cost of the download; the `count` fetched rows are left in `images`. Raises InputError for a wrong list."""
    from blip_pipelines.ingest.probe import time_download  # ray takes two seconds to import

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


def measure_same_pictures(
    config: Config, sample: Sample, folders: Mapping[str, Path], sizes: Mapping[str, int], scratch: Path
) -> Cost | None:
    """The cost of looking for pictures that are in two sets at once: each stored one is read and hashed.

    `folders` and `sizes` are the sample's and the whole number of rows of the human and the held-out set. None where a
    round does not look: without either set, or with nothing to train.
    """
    trains = config.pretrain.optimizer.steps or not config.models_given
    if not folders or not trains:
        return None
    images = scratch / "same_images"
    images.mkdir()
    sets_s = _look(config, images, folders, scratch / "same-0")
    times = max(1, min(HASHED_IMAGES // len(sample.rows), HASHED_BYTES // sample.rows.nbytes))
    write_parquet(images / "part-00000.parquet", pa.concat_tables([sample.rows] * times), IMAGES)
    images_s = _look(config, images, {}, scratch / "same-1")
    num_read = sum(len(read_parquet(file, ["key"])) for folder in folders.values() for file in parquet_files(folder))
    return Cost(
        "same pictures", 0, 0, images_s / (times * len(sample.rows)), "CPU",
        fixed_s=sets_s * sum(sizes.values()) / num_read,
        num_workers=NUM_THREADS,
        unit=config.download.rows_per_shard,
        share=sample.success_share,
        worker_bytes=peak_bytes() // NUM_THREADS,
        scales=False,
    )  # fmt: skip


def _look(config: Config, images: Path, folders: Mapping[str, Path], out: Path) -> float:
    """Seconds that the step takes."""
    out.mkdir()
    started = time.perf_counter()
    find_same_pictures(out, images, folders.get("human"), folders.get("held_out"), config=same_pictures_config(config))
    return time.perf_counter() - started
