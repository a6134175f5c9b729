"""What the feed of a training reads, holds and mixes: all ranks of several world sizes, one after the other.

    .venv/bin/python tests/bench/feed.py [--json] [--files 40] [--rows 2000] [--worlds 1 4 16] [--root DIR]

Files of the table `images` with 20 row groups each, JPEGs of some 17 kB, four lists in the order of the files, and
pairs of which .6 of the web and .6 of the synthetic texts are kept. Each world has a process of its own, which runs one
epoch of each of its ranks, without decoding:

- `bytes_read_over_needed`: bytes that the file layer hands out to all ranks in an epoch, planning, footers and texts
  included, over the bytes of the pictures of the row groups that hold a kept sample; the worst world.
- `peak_mib`: the largest peak of a process's resident set; that of torch alone is `torch_mib`.
- `batch_sources`: the share of each batch's commonest list over its share of the data, the mean of 100 batches of
  2,880.
- `samples_per_s_core`: samples a second of processor time with their bytes and texts; `decoded_per_s_core`: as pixels
  of 224 px with a random crop.
- `plan_ms_a_file`: processor time of planning.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "OMP_NUM_THREADS": "1"}
sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in (".", "training", "pipelines")]

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from PIL import Image  # noqa: E402

from blip_bootstrap.schemas.tables import IMAGES, PAIRS  # noqa: E402
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet  # noqa: E402

BATCH_SIZE, NUM_BATCHES, NUM_LISTS, GROUPS_PER_FILE = 2880, 100, 4, 20

WINDOW_BYTES = 128 << 20
"""A tenth of the pictures, so that an epoch has windows enough."""


def write_files(root: Path, num_files: int, rows: int) -> None:
    """The tables `images` and `pairs`; there are 2,000 different pictures."""
    rng = np.random.default_rng(0)
    jpgs = [draw(rng) for _ in range(2_000)]
    table = replace(IMAGES, rows_per_group=rows // GROUPS_PER_FILE)
    for part in range(num_files):
        name, keys = f"part-{part:05d}.parquet", [f"{part:05d}{row:05d}" for row in range(rows)]
        source = f"list-{part * NUM_LISTS // num_files}"
        images: list[dict[str, object]] = [
            {"key": key, "status": "success", "dataset": source, "url": f"https://example.com/{key}.jpg",
             "caption": f"the picture {key}", "sha256": rng.bytes(32).hex(), "jpg": jpgs[rng.integers(len(jpgs))]}
            for key in keys
        ]  # fmt: skip
        kept = rng.random((rows, 2)) < 0.6
        pairs: list[dict[str, object]] = [
            {"key": key, "source": ("web", "synthetic")[at], "candidate": 0, "kept": bool(kept[row, at]),
             "caption": f"text {at} of what may be seen in the picture with the number {key}"}
            for row, key in enumerate(keys) for at in range(2)
        ]  # fmt: skip
        write_parquet(root / "images" / name, rows_to_table(images, table), table)
        write_parquet(root / "pairs" / name, rows_to_table(pairs, PAIRS), PAIRS)


def draw(rng: np.random.Generator) -> bytes:
    """A JPEG of 256 px of coarse noise, some 17 kB."""
    noise = Image.fromarray(rng.integers(0, 255, (26, 26, 3), dtype=np.uint8)).resize(
        (256, 256), Image.Resampling.BICUBIC
    )
    stream = io.BytesIO()
    noise.save(stream, "JPEG", quality=90)
    return stream.getvalue()


class Counted(pq.ParquetFile):  # type: ignore[misc]
    """A Parquet file whose source counts the bytes that it hands out."""

    handed_out = 0
    lock = threading.Lock()

    def __init__(self, source: Path, **settings: Any) -> None:
        super().__init__(pa.PythonFile(CountedFile(source), "r"), **settings)


class CountedFile(io.FileIO):
    """A file that counts the bytes that it hands out."""

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(-1 if size is None else size)
        with Counted.lock:
            Counted.handed_out += len(found)
        return found


def peak_mib() -> float:
    """The peak of this process's resident set."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def of_world(root: Path, world: int) -> dict[str, float]:
    """One epoch of every rank of a world."""
    import torch  # noqa: F401 - what is there without the feed

    from blip_training.feed.batches import open_training_data
    from blip_training.feed.feed import Feed

    before, pq.ParquetFile = peak_mib(), Counted
    said, barrier = [None] * world, threading.Barrier(world)

    def opened(rank: int) -> Any:
        def exchange(mine: Any) -> list[Any]:
            barrier.wait()
            said[rank] = mine
            barrier.wait()
            return [*said]

        feed = Feed(BATCH_SIZE, 224, 0, rank=rank, world=world, window_bytes=WINDOW_BYTES, exchange=exchange)
        return open_training_data(root / "images", root / "pairs", None, feed)

    started = time.process_time()
    with ThreadPoolExecutor(world) as pool:
        ranks = list(pool.map(opened, range(world)))
    planned = time.process_time() - started
    needed, num_lanes = int(ranks[0].web.counts.size_bytes.sum()), ranks[0].web.lanes.num_lanes
    while ranks:
        data = ranks.pop()
        data.web.end_at(data.web.num_samples)
        for step in range(data.web.num_samples // BATCH_SIZE):
            sum(len(sample.encoded()) for sample in data.own_samples(step))
    return {
        "world": world, "lanes": num_lanes, "needed_mib": needed / 2**20,
        "read_over_needed": Counted.handed_out / needed, "plan_s": planned, "torch_mib": before, "peak_mib": peak_mib(),
    }  # fmt: skip


def of_batches(root: Path) -> dict[str, float]:
    """Speed, and how batches are mixed, in one process."""
    from blip_training.feed.batches import open_training_data
    from blip_training.feed.feed import Feed

    feed = Feed(BATCH_SIZE, 224, 0, window_bytes=WINDOW_BYTES, augment="crop", cache_bytes=0)
    data = open_training_data(root / "images", root / "pairs", None, feed)
    files = len([*(root / "pairs").iterdir()])
    shares, started = [], time.process_time()
    for step in range(NUM_BATCHES):
        samples = data.own_samples(step)
        sum(len(sample.encoded()) for sample in samples)
        lists = Counter(int(sample.key[:5]) * NUM_LISTS // files for sample in samples)
        shares.append(max(lists.values()) / BATCH_SIZE * NUM_LISTS)
    seconds = time.process_time() - started
    started = time.process_time()
    data.pictures.of(samples)
    decoded = time.process_time() - started
    return {
        "batch_sources": sum(shares) / NUM_BATCHES,
        "samples_per_s_core": NUM_BATCHES * BATCH_SIZE / seconds,
        "decoded_per_s_core": BATCH_SIZE / decoded,
        "samples_an_epoch": data.num_samples,
    }


def measure(root: Path, worlds: list[int]) -> dict[str, Any]:
    """All figures; each world in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        found = [pool.submit(of_world, root, world).result() for world in worlds]
        batches = pool.submit(of_batches, root).result()
    files = len([*(root / "images").iterdir()])
    return {
        "bytes_read_over_needed": max(one["read_over_needed"] for one in found),
        "peak_mib": max(one["peak_mib"] for one in found),
        **batches,
        "plan_ms_a_file": 1000 * found[0]["plan_s"] / files,
        "by_world": found,
        "python": platform.python_version(),
        "pyarrow": version("pyarrow"),
    }


def main() -> None:
    """Write the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--root", type=Path, help="where the files are, or are to be written and kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = options.root or Path(scratch)
        if not (root / "images").exists():
            write_files(root, options.files, options.rows)
        figures = measure(root, options.worlds)
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
