"""Memory of the captioning job over few and over many images: driver, workers and Ray's object store.

    .venv/bin/python tests/bench/memory.py [--json] [--images 1000 100000] [--actors 1]

Drawn 32 px JPEGs in files of 10,000 as the download makes them, a tiny random captioner and filter, captions of at most
five tokens. Each count is a run of its own in a fresh process. `driver_mb`, `worker_mb` (the largest actor's) and
`raylet_mb` (which maps the object store) are the peaks of the resident set, sampled four times a second;
`*_late_mb` are the medians over the last half of the samples; `*_ratio` the peak of the most over that of the fewest.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1"}
sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in (".", "training", "pipelines")]

import psutil  # noqa: E402

from blip_bootstrap.config import CaptionConfig, RayConfig, SamplerConfig  # noqa: E402
from blip_bootstrap.schemas.tables import IMAGES  # noqa: E402
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet  # noqa: E402
from blip_pipelines.caption.step import caption_and_score  # noqa: E402

ROWS_PER_FILE, SIZE, INTERVAL_S = 10_000, 32, 0.25
PARTS = {"worker": "CaptionBlocks", "raylet": "/raylet/raylet"}
"""What the command line of such a process contains."""


def write_images(folder: Path, count: int) -> Path:
    """Files of the table `images`; there are 1,000 different pictures."""
    drawn = [draw(i) for i in range(1_000)]
    empty = dict.fromkeys(IMAGES.schema.names)
    for start in range(0, count, ROWS_PER_FILE):
        number, rows = start // ROWS_PER_FILE, []
        for i in range(min(ROWS_PER_FILE, count - start)):
            row = {"key": f"{number:05d}{i:05d}", "status": "success", "caption": f"w{i % 400} w{i % 7} of w{number}"}
            rows.append(empty | row | {"jpg": drawn[i % 1_000]})
        write_parquet(folder / f"part-{number:05d}.parquet", rows_to_table(rows, IMAGES), IMAGES)
    return folder


def draw(number: int) -> bytes:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(number).integers(0, 255, (SIZE // 8, SIZE // 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(stream, "JPEG")
    return stream.getvalue()


@contextmanager
def sampled(found: dict[str, list[float]]) -> Iterator[None]:
    """While the body runs, append the resident sets in MB to `found`: this process, its largest actor, its raylet."""
    stop, me = threading.Event(), psutil.Process()
    known: dict[int, str | None] = {}

    def sample() -> None:
        while not stop.wait(INTERVAL_S):
            found["driver"].append(me.memory_info().rss / 1e6)
            sizes = children_mb(me, known)
            for name in PARTS:
                if sizes[name]:
                    found[name].append(max(sizes[name]))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join()


def children_mb(me: psutil.Process, known: dict[int, str | None]) -> dict[str, list[float]]:
    """The resident sets of the processes that Ray started, by part; `known` keeps which process is which."""
    sizes: dict[str, list[float]] = {name: [] for name in PARTS}
    for child in me.children(recursive=True):
        try:
            if known.get(child.pid) is None:  # a worker has its name once it is an actor
                line = " ".join(child.cmdline())
                known[child.pid] = next((name for name, words in PARTS.items() if words in line), None)
            if name := known[child.pid]:
                sizes[name].append(child.memory_info().rss / 1e6)
        except psutil.NoSuchProcess:
            continue
    return sizes


def run_job(folder: Path, models: Path, actors: int) -> dict[str, float]:
    """In a process of its own: caption the images in `folder`, and what that took."""
    sampler = SamplerConfig(max_tokens=5)
    config = CaptionConfig(prompt="", device="cpu", num_actors=actors, batch_size=128, sampler=sampler)
    samples: dict[str, list[float]] = {"driver": [], **{name: [] for name in PARTS}}
    started = time.perf_counter()
    with sampled(samples):
        counts = caption_and_score(
            folder / "out", folder / "images", models / "captioner", models / "filter", config, RayConfig()
        )
    found = {f"{name}_mb": max(values) for name, values in samples.items()}
    found |= {f"{name}_late_mb": statistics.median(values[len(values) // 2 :]) for name, values in samples.items()}
    return {"images": int(counts["images"]), "seconds": time.perf_counter() - started, **found}


def measure(folder: Path, counts: list[int], actors: int) -> dict[str, object]:
    from tests.bench.engine import save_models

    models = save_models(folder, "tiny")[0].parent
    runs = []
    for count in counts:
        place = folder / str(count)
        write_images(place / "images", count)
        command = [sys.executable, "-W", "ignore", __file__, "--job", str(place), str(models), "--actors", str(actors)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        runs.append({name: round(value, 1) for name, value in json.loads(done.stdout).items()})
        print(runs[-1], file=sys.stderr)
    most, fewest = runs[-1], runs[0]
    ratios = {f"{name}_ratio": round(most[f"{name}_mb"] / fewest[f"{name}_mb"], 3) for name in ("driver", *PARTS)}
    versions = f"ray {version('ray')}, pyarrow {version('pyarrow')}, python {platform.python_version()}"
    return {**ratios, "runs": runs, "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--job", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        folder, models = arguments.job
        print(json.dumps(run_job(folder, models, arguments.actors)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(Path(scratch), sorted(arguments.images), arguments.actors)
    for name, value in () if arguments.json else found.items():
        print(f"{name:22} {value}")
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
