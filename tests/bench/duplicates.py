"""Seconds and memory of grouping pictures, exactly and by their looks, and the share of planted pairs that is found.

    .venv/bin/python tests/bench/duplicates.py [--json] [--pictures 1000000] [--pairs 2000] [--ray none]

Hashes of 256 random bits are drawn for `pictures` pictures in parts of 10,000, and among them, for each of some
distances, `pairs` pictures whose hash differs in so many bits from that of an earlier one; a hundredth of the pictures
has the bytes of an earlier one. Grouping runs in a process of its own, whose processor seconds are told too, start-up
included: exactly alone, then by looks too, with a radius of 31 bits. `--ray local` compares bands on Ray's workers. The
last line is one JSON object with --json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in (".", "training", "pipelines")]

from blip_bootstrap.config import DuplicatesConfig, RayConfig  # noqa: E402
from blip_bootstrap.schemas.keys import keys_of, part_name  # noqa: E402
from blip_bootstrap.schemas.tables import IMAGES, PICTURE_HASHES  # noqa: E402
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, write_parquet  # noqa: E402
from blip_pipelines.duplicates.groups import group_pictures  # noqa: E402

ROWS_PER_PART = 10_000

DISTANCES = (0, 8, 15, 16, 20, 24, 28, 31)

SEED = 0


def main() -> None:
    """Draw the pictures, group them in processes of their own, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=2_000, help="planted pairs of each distance")
    parser.add_argument("--ray", default="none", help="where bands are compared: none, local, auto or an address")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(group(Path(asked.child[0]), asked.child[1] == "near", asked.ray)))
        return
    with tempfile.TemporaryDirectory(prefix="duplicates-") as folder:
        planted = draw(Path(folder), asked.pictures, asked.pairs)
        found: dict[str, Any] = {"pictures": asked.pictures, "planted_pairs_each": asked.pairs, "ray": asked.ray}
        for kind in ("exact", "near"):
            command = [sys.executable, __file__, "--child", folder, kind, "--ray", asked.ray]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found |= {f"{kind}_{name}": value for name, value in json.loads(answer.splitlines()[-1]).items()}
        found |= {f"recall_{apart}": share for apart, share in recall(Path(folder), planted).items()}
    for name, value in found.items():
        print(f"{name:24} {value}")
    if asked.json:
        print(json.dumps(found))


def draw(folder: Path, count: int, pairs: int) -> dict[int, list[tuple[int, int]]]:
    """Write images and hashes; of each distance the planted pairs, as numbers of rows."""
    rng = np.random.default_rng(SEED)
    hashes = rng.integers(0, 256, (count, 32), dtype=np.uint8)
    some = rng.permutation(count)[: 2 * pairs * len(DISTANCES)].reshape(len(DISTANCES), pairs, 2)
    some.sort(axis=2)
    for apart, places in zip(DISTANCES, some, strict=True):
        for first, second in places:
            flips = np.zeros(256, np.uint8)
            flips[rng.permutation(256)[:apart]] = 1
            hashes[second] = hashes[first] ^ np.packbits(flips)
    same_bytes = np.arange(count)
    free = np.setdiff1d(np.arange(count), some)[1:]
    again = rng.choice(free, count // 100, replace=False)
    same_bytes[again] = rng.integers(0, again)
    for number, first in enumerate(range(0, count, ROWS_PER_PART)):
        write_part(folder, number, hashes[first : first + ROWS_PER_PART], same_bytes[first : first + ROWS_PER_PART])
    return {apart: [tuple(pair) for pair in one.tolist()] for apart, one in zip(DISTANCES, some, strict=True)}


def write_part(folder: Path, number: int, hashes: np.ndarray[Any, Any], same_bytes: np.ndarray[Any, Any]) -> None:
    """One part of images, without pictures, and of their hashes."""
    keys = keys_of(number, range(len(hashes)))
    known = {
        "key": keys, "url": [f"https://host{int(key) % 997}.example/pictures/{key}.jpg" for key in keys],
        "caption": [f"a picture of the thing with the number {key}" for key in keys], "status": ["success"] * len(keys),
        "sha256": [hashlib.sha256(one.tobytes()).hexdigest() for one in same_bytes],
    }  # fmt: skip
    columns = {
        name: known.get(name, pa.nulls(len(keys), IMAGES.schema.field(name).type)) for name in IMAGES.schema.names
    }
    write_parquet(folder / "images" / part_name(number), pa.table(columns, IMAGES.schema), IMAGES)
    rows = {"key": keys, "pdq": [one.tobytes() for one in hashes], "quality": [100] * len(keys)}
    write_parquet(folder / "hashes" / part_name(number), pa.table(rows, PICTURE_HASHES.schema), PICTURE_HASHES)


def group(folder: Path, near: bool, ray: str) -> dict[str, Any]:
    """Seconds and peak memory of grouping, in this process, with what was counted."""
    config = DuplicatesConfig(near=near)
    before = peak_bytes()
    started = time.perf_counter()
    out = folder / ("near" if near else "exact")
    out.mkdir()
    counts = group_pictures(out, folder / "images", folder / "hashes", config=config, ray=RayConfig(address=ray))
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_mb": peak_bytes() // 10**6,
        "start_mb": before // 10**6,
        **counts,
    }


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def recall(folder: Path, planted: dict[int, list[tuple[int, int]]]) -> dict[int, float]:
    """The share of the planted pairs of each distance that are in one group."""
    firsts: list[int] = []
    for file in parquet_files(folder / "near"):
        rows = read_parquet(file, ["near_group"])["near_group"].to_pylist()
        firsts += [(int(key) // 100_000) * ROWS_PER_PART + int(key) % 100_000 for key in rows]
    return {
        apart: sum(firsts[first] == firsts[second] for first, second in pairs) / len(pairs)
        for apart, pairs in planted.items()
    }


if __name__ == "__main__":
    main()
