"""Measures what Ray costs: each step on two nodes beside one with the same cores, and the driver for each item.

    .venv/bin/python tests/bench/nodes.py [--repeats 2] [--json]

The nodes are raylets of this machine that share its cores and its disk, so that the difference is that of a second
node alone. The driver's part runs items that do nothing on a local Ray: CPU seconds, calls and bytes for each.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from blip_bootstrap.config import RayConfig
from blip_bootstrap.progress import Progress
from blip_pipelines.cluster.crew import Told
from blip_pipelines.cluster.items import Pool, run_items
from blip_pipelines.cluster.session import connect
from blip_pipelines.ingest.shard_parts import Shard
from tests.support.cluster_runs import begun, rounds, said, written
from tests.support.small_world import small_config
from tests.support.two_nodes import Cluster

STEPS = ("images", "round-00/model", "round-01/filter", "round-01/captions", "round-01/model", "round-01/evaluation")

ARRANGEMENTS = {"one": [2], "two": [1, 1]}


def step_seconds(cpus: list[int]) -> dict[str, float]:
    """Seconds of each step of `run --round 1` on nodes with so many CPUs, beside a head with none."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, server = small_config(folder / "run", folder / "world", num_web=96)
        config["download"] |= {"rows_per_shard": 24, "timeout_s": 10.0}
        config["controls"] = {"arms": []}
        with server, Cluster({}) as cluster:
            cluster.add_all(cpus)
            asked = rounds(written(config, folder, "there", folder / "run", cluster.address), 1)
            told = said(begun(asked, cluster.environment))
    found = dict(re.findall(r"^([\w/-]+): done in ([\d.]+) s", told, re.M))
    return {step: float(found[step]) for step in STEPS}


def nothing(tally: Any) -> Callable[[Any], Iterator[Any]]:
    """A worker that gives each item back."""

    def do(item: Any) -> Iterator[Any]:
        tally.put(str(item), {"images": 1})
        yield item

    return do


def driver_seconds(num_items: int) -> tuple[float, float]:
    """CPU and wall-clock seconds of the driver for so many items that do nothing."""
    items = (Shard(f"/mnt/runs/mine/artifacts/download_images/0123456789abcdef/rows/part-{at:05d}.parquet",
                   f"/mnt/runs/mine/artifacts/download_images/0123456789abcdef/part-{at:05d}.parquet")
             for at in range(num_items))  # fmt: skip
    cpu, wall = time.process_time(), time.monotonic()
    with Progress("download", num_items, "images") as progress:
        run_items("download", items, nothing, Pool(2, memory_bytes=1), lambda item: None, progress, {})
    return time.process_time() - cpu, time.monotonic() - wall


def driver() -> dict[str, float]:
    """What an item costs the driver, from the difference of many and few, and what it sends and gets for it."""
    connect(RayConfig(num_cpus=3, object_store_bytes=100_000_000))
    driver_seconds(100)
    few, many = driver_seconds(500), driver_seconds(4500)
    shard = Shard("/mnt/runs/mine/artifacts/download_images/0123456789abcdef/rows/part-00000.parquet",
                  "/mnt/runs/mine/artifacts/download_images/0123456789abcdef/part-00000.parquet")  # fmt: skip
    return {
        "driver_cpu_ms_an_item": (many[0] - few[0]) / 4000 * 1000,
        "driver_wall_ms_an_item": (many[1] - few[1]) / 4000 * 1000,
        "bytes_of_an_item": len(pickle.dumps(shard)),
        "bytes_of_an_answer": len(pickle.dumps(Told([shard], 0, 1 << 30, "0" * 56, 1 << 34))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found: dict[str, Any] = {"driver": driver()}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in ARRANGEMENTS}
    for _ in range(asked.repeats):
        for name, cpus in ARRANGEMENTS.items():
            taken[name].append(step_seconds(cpus))
            print(f"{name}: {taken[name][-1]}  load {os.getloadavg()[0]:.0f}", file=sys.stderr, flush=True)
    found["seconds"] = {
        step: {name: median(one[step] for one in runs) for name, runs in taken.items()}
        for step in STEPS
        if asked.repeats
    }
    if asked.json:
        print(json.dumps(found))
        return
    print(*(f"{name} {value:.4g}" for name, value in found["driver"].items()), sep="\n")
    for step, both in found["seconds"].items():
        print(f"{step}: one node {both['one']:.1f} s, two nodes {both['two']:.1f} s")


if __name__ == "__main__":
    main()
