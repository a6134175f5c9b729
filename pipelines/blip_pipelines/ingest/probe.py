"""Times the download of a sample of the URL lists, with as many workers as a whole download would have."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip_bootstrap.config import DownloadConfig, RayConfig
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, rows_to_table, write_parquet
from blip_pipelines.cluster.probe import empty_job_s, run_together
from blip_pipelines.cluster.resources import num_workers, peak_bytes
from blip_pipelines.failures.errors import errors_in_one_line
from blip_pipelines.ingest.download import serve_lists
from blip_pipelines.ingest.fetched_rows import fetch_rows
from blip_pipelines.ingest.pictures import WebStore
from blip_pipelines.lists.shards import write_shards
from blip_training.data.decode import PictureError


@dataclass(frozen=True)
class SampledDownload:
    """What the download of a sample took: `seconds` and `cpu_s` are sums over all workers.

    `start_s` are the seconds that the step takes beside fetching; `peak_bytes` is the memory of the largest worker.
    """

    num_rows: int
    seconds: float
    cpu_s: float
    start_s: float
    num_workers: int
    peak_bytes: int


def time_download(images: Path, config: DownloadConfig, ray: RayConfig, count: int) -> SampledDownload:
    """Fetch the first `count` rows of the lists on the connected cluster; they are left in `images`, a file a worker.

    Raises InputError for a wrong list.
    """
    workers = num_workers(ray, 0, cpus_each=1)
    shards = images.with_name("lists")
    shards.mkdir()
    write_shards(list(config.urls), shards, -(-count // workers), count, config.max_text_chars)
    files = parquet_files(shards)[:workers]
    with ExitStack() as stack:
        own_hosts = serve_lists(config.urls, stack)
        stack.enter_context(errors_in_one_line("plan"))
        start_s, started = empty_job_s(), time.perf_counter()
        found = run_together(fetch_sample, [(read_parquet(file).to_pylist(), config, own_hosts) for file in files])
        start_s += time.perf_counter() - started - max(one["seconds"] for one in found)
    for file, one in zip(files, found, strict=True):
        write_parquet(images / file.name, rows_to_table(one["rows"], IMAGES), IMAGES)
    return SampledDownload(
        num_rows=sum(len(one["rows"]) for one in found),
        seconds=sum(one["seconds"] for one in found),
        cpu_s=sum(one["cpu_s"] for one in found),
        start_s=start_s,
        num_workers=workers,
        peak_bytes=max(one["peak_bytes"] for one in found),
    )


def fetch_sample(rows: list[dict[str, Any]], config: DownloadConfig, own_hosts: frozenset[str]) -> dict[str, Any]:
    """Run in a worker: download `rows`; returns rows of the table `images`, with seconds, CPU seconds and memory."""
    with WebStore(config) as store:
        with suppress(PictureError):
            store(b"")  # the start of the process that decodes is not part of the first row's time
        started, cpu_started = time.perf_counter(), time.process_time() + store.cpu_s
        fetched = list(fetch_rows(rows, config, own_hosts, store))
        seconds, cpu_s = time.perf_counter() - started, time.process_time() + store.cpu_s - cpu_started
    return {"rows": fetched, "seconds": seconds, "cpu_s": cpu_s, "peak_bytes": peak_bytes()}
