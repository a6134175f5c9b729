"""What the download costs, measured by fetching the first rows of the URL lists."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from blip_bootstrap.config import Config, DownloadConfig
from blip_bootstrap.planning.cost import Cost
from blip_bootstrap.storage.parquet import read_parquet, rows_to_table, write_parquet
from blip_bootstrap.storage.tables import IMAGES
from blip_pipelines.cluster.errors import errors_in_one_line
from blip_pipelines.cluster.resources import num_workers, peak_bytes
from blip_pipelines.ingest.download import fetch_rows, serve_lists
from blip_pipelines.ingest.pictures import WebStore
from blip_pipelines.ingest.url_lists import write_shards
from blip_training.data.decode import PictureError

CPU_BOUND = 0.7
"""Share of a fetching worker's time on the CPU from which its decoding and resizing bounds it, not the network."""


def measure_download(config: Config, images: Path, count: int) -> Cost:
    """The cost of the download; the `count` fetched rows are left in `images`. Raises InputError for a wrong list."""
    import ray

    workers = num_workers(config.ray, 0, cpus_each=1)
    per_worker = -(-count // workers)
    shards = images.with_name("lists")
    shards.mkdir()
    write_shards(list(config.download.urls), shards, per_worker, count, config.download.max_text_chars)
    files = sorted(shards.glob("*.parquet"))[:workers]
    with ExitStack() as stack:
        own_hosts = serve_lists(config.download.urls, stack)
        stack.enter_context(errors_in_one_line("plan"))
        fixed_s, started = empty_job_s(), time.perf_counter()
        remote = ray.remote(num_cpus=1)(fetch_sample)
        found = ray.get([remote.remote(read_parquet(file).to_pylist(), config.download, own_hosts) for file in files])
        fixed_s += time.perf_counter() - started - max(one["seconds"] for one in found)
    for file, one in zip(files, found, strict=True):
        write_parquet(images / file.name, rows_to_table(one["rows"], IMAGES), IMAGES)
    num_rows = sum(len(one["rows"]) for one in found)
    seconds = sum(one["seconds"] for one in found)
    cpu_share = sum(one["cpu_s"] for one in found) / seconds
    return Cost(
        "download",
        rows_per_image=1.0,
        bytes_per_image=sum(file.stat().st_size for file in images.iterdir()) / num_rows,
        seconds_per_image=seconds / num_rows,
        bound_by="CPU decode" if cpu_share > CPU_BOUND else "network",
        fixed_s=fixed_s,
        num_workers=workers,
        unit=config.download.rows_per_shard,
        worker_bytes=max(one["peak_bytes"] for one in found),
    )


def empty_job_s() -> float:
    """Seconds of a job of Ray Data that has nothing to do; the first one of a driver starts Ray Data's own actors."""
    import ray

    started = time.perf_counter()
    ray.data.from_items([{"row": 0}]).map_batches(_same, batch_format="pyarrow").take_all()
    return time.perf_counter() - started


def _same(batch: pa.Table) -> pa.Table:
    return batch


def fetch_sample(rows: list[dict[str, Any]], config: DownloadConfig, own_hosts: frozenset[str]) -> dict[str, Any]:
    """In a worker: rows as the table `images` has them, the seconds they took, and those of them on the CPU."""
    import ray.data  # noqa: F401  # as in a worker of Ray Data

    with WebStore(config) as store:
        with suppress(PictureError):
            store(b"")  # the start of the process that decodes is not part of the first row's time
        started, cpu_started = time.perf_counter(), time.process_time() + store.cpu_s
        fetched = list(fetch_rows(rows, config, own_hosts, store))
        seconds, cpu_s = time.perf_counter() - started, time.process_time() + store.cpu_s - cpu_started
    return {"rows": fetched, "seconds": seconds, "cpu_s": cpu_s, "peak_bytes": peak_bytes()}
