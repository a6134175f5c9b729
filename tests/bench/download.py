"""Images a second of the download step beside img2dataset 1.47, and its memory over 100,000 URLs.

    .venv/bin/python tests/bench/download.py [--json] [--rows 5000] [--rounds 3] [--urls 100000] [--data FOLDER]

A web server on loopback, a process of its own, sends photographs: those of --data, else drawn ones of 192 x 192 px.
Both download one shard of `rows` URLs with 32 threads, bring the short side to 128 px, and write JPEGs of quality 95,
sha256 and EXIF to Parquet: img2dataset in one process (processes_count 1), ours in one task with its decoder child
and every guard on (as many connections to the one host as there are threads, robots.txt obeyed). They take turns for
`rounds` rounds. `images_s` is without start-up: from the first URL to the last row written, as the two report it
themselves; `images_s_with_start` is of the whole process. Ratios are of medians: over 1 means that ours is faster.
Then ours downloads `urls` URLs in shards of 10,000; its memory, and that of its child, are taken after each shard (MB
of the resident set).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
HERE = Path(__file__).parent
SOURCES = [str(HERE.parents[1] / part) for part in (".", "training", "pipelines")]
DATA = Path(os.environ.get("BLIP_BOOTSTRAP_DATA", HERE.parents[2] / "shared" / "data")) / "flickr8k" / "images"

SIZE, QUALITY, THREADS, TIMEOUT_S, ROWS_PER_SHARD = 128, 95, 32, 10, 10_000

THEIRS = """
import json, sys
from img2dataset import download
if __name__ == "__main__":
    download(**json.loads(sys.argv[1]))
"""

OURS = """
import json, sys
from pathlib import Path
given = json.loads(sys.argv[1])
sys.path[:0] = given["sources"]
from blip_bootstrap.config import DownloadConfig, RayConfig
from blip_pipelines.ingest import download
config = DownloadConfig(**given["config"])
out = Path(given["out"])
download.download_images(out, *(one.path for one in config.urls), config=config, ray=RayConfig(address="none"))
"""


@contextmanager
def photo_server(folder: Path) -> Iterator[str]:
    """A process that serves the photographs in `folder`; yields "127.0.0.1:PORT"."""
    command = [sys.executable, str(HERE / "photo_server.py"), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin
        assert server.stdout
        yield f"127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


def draw_photographs(folder: Path, count: int = 200) -> Path:
    """Smooth shapes and noise of photographs' size in bytes: some 10 KB a picture."""
    import numpy as np  # only where no photographs are given
    from PIL import Image

    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).resize((192, 192))
        pixels = np.asarray(coarse, np.int16) + rng.integers(-12, 12, (192, 192, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=85)
    return folder


def write_list(folder: Path, host: str, count: int) -> Path:
    """A list of `count` URLs of the server, each another one."""
    path = folder / f"list-{count}.tsv"
    lines = (f"http://{host}/{number}.jpg\ta photograph, number {number}\n" for number in range(count))
    path.write_text("url\tcaption\n" + "".join(lines))
    return path


def run_theirs(urls: Path, out: Path) -> dict[str, float]:
    settings = {
        "url_list": str(urls), "output_folder": str(out), "input_format": "tsv", "url_col": "url",
        "caption_col": "caption", "output_format": "parquet", "processes_count": 1, "thread_count": THREADS,
        "image_size": SIZE, "resize_mode": "keep_ratio", "resize_only_if_bigger": True, "encode_quality": QUALITY,
        "number_sample_per_shard": ROWS_PER_SHARD, "compute_hash": "sha256", "timeout": TIMEOUT_S, "retries": 1,
    }  # fmt: skip
    script = out.with_suffix(".py")  # a file: img2dataset starts processes that import it again
    script.write_text(THEIRS)
    return _timed([sys.executable, "-W", "ignore", str(script), json.dumps(settings)], out)


def given(urls: Path, out: Path) -> str:
    """The settings of OURS, as JSON."""
    config = {
        "urls": [{"path": str(urls)}], "image_size": SIZE, "resize_mode": "keep_ratio", "encode_quality": QUALITY,
        "num_threads": THREADS, "timeout_s": TIMEOUT_S, "rows_per_shard": ROWS_PER_SHARD,
        "allow_private_addresses": True, "host_connections": THREADS,
    }  # fmt: skip
    return json.dumps({"sources": SOURCES, "config": config, "out": str(out)})


def run_ours(urls: Path, out: Path) -> dict[str, float]:
    return _timed([sys.executable, "-c", OURS, given(urls, out)], out)


def _timed(command: list[str], out: Path) -> dict[str, float]:
    """Images a second with and without start-up of one download."""
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    seconds = time.perf_counter() - started
    stats = [json.loads(file.read_text()) for file in out.glob("*_stats.json")]
    count = sum(one["successes"] for one in stats)
    if done.returncode or not count or count != sum(one["count"] for one in stats):
        raise SystemExit(f"{out.name}: {count} pictures, exit status {done.returncode}\n{done.stdout[-2_000:]}")
    return {"images_s": count / _working_s(out), "images_s_with_start": count / seconds}


def _working_s(out: Path) -> float:
    """Seconds from the start of each shard to its end, its Parquet file included, which ours writes after its stats."""
    total = 0.0
    for file in out.glob("*_stats.json"):
        stats, table = json.loads(file.read_text()), file.with_name(file.name.replace("_stats.json", ".parquet"))
        total += max(stats["end_time"], table.stat().st_mtime) - stats["start_time"]
    return total


def compare(folder: Path, host: str, rows: int, rounds: int) -> dict[str, Any]:
    """Both in turn, `rounds` times; medians, and their ratios."""
    urls = write_list(folder, host, rows)
    found: dict[str, list[dict[str, float]]] = {"img2dataset": [], "ours": []}
    for number in range(rounds):
        for name, run in (("img2dataset", run_theirs), ("ours", run_ours)):
            found[name].append(run(urls, folder / f"{name}-{number}"))
            print(f"round {number + 1}: {name:12} " + _told(found[name][-1]), file=sys.stderr)
    middle = {
        name: {key: statistics.median(one[key] for one in runs) for key in runs[0]} for name, runs in found.items()
    }
    ratio = {key: middle["ours"][key] / middle["img2dataset"][key] for key in middle["ours"]}
    return {
        "ratio_img2dataset": round(ratio["images_s"], 3),
        "ratio_img2dataset_with_start": round(ratio["images_s_with_start"], 3),
        **{name: {key: round(value) for key, value in one.items()} for name, one in middle.items()},
        "runs": {name: [{k: round(v) for k, v in one.items()} for one in runs] for name, runs in found.items()},
    }


def _told(run: dict[str, float]) -> str:
    return f"{run['images_s']:6.0f} images/s, with start-up {run['images_s_with_start']:6.0f}"


def watch_memory(folder: Path, host: str, count: int) -> dict[str, Any]:
    """Download `count` URLs: the peak of this process's resident set in each shard, and of its children's, MB."""
    out, urls = folder / "many", write_list(folder, host, count)
    peaks: dict[int, dict[str, float]] = {}
    with subprocess.Popen([sys.executable, "-c", OURS, given(urls, out)], stdout=subprocess.DEVNULL) as running:
        process = psutil.Process(running.pid)
        while running.poll() is None:
            shard = len(list(out.glob("part-*.parquet")))
            with suppress(psutil.Error):
                now = {"mb": _mb(process), "child_mb": sum(map(_mb, process.children(recursive=True)))}
                if any(out.glob("rows/part-*")):
                    before = peaks.setdefault(shard, now)
                    peaks[shard] = {key: max(value, now[key]) for key, value in before.items()}
            time.sleep(0.1)
    stats = [json.loads(file.read_text()) for file in out.glob("*_stats.json")]
    if running.returncode or sum(one["successes"] for one in stats) != count:
        raise SystemExit(f"{count} URLs: exit status {running.returncode}, {len(stats)} shards")
    by_shard = [peaks[shard] for shard in sorted(peaks) if shard < len(stats)]
    half = len(by_shard) // 2
    first, last = (
        {k: max(p[k] for p in some) for k in some[0]} for some in (by_shard[:half] or by_shard, by_shard[half:])
    )
    return {
        "urls": count,
        "images_s": round(count / _working_s(out)),
        "peak_mb_by_shard": [round(one["mb"]) for one in by_shard],
        "child_peak_mb_by_shard": [round(one["child_mb"]) for one in by_shard],
        "growth": round(last["mb"] / first["mb"], 3),
        "child_growth": round(last["child_mb"] / first["child_mb"], 3),
    }


def _mb(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--urls", type=int, default=100_000, help="of the memory's measurement; 0: leave it out")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of photographs; drawn where there is none")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        is_there = arguments.data.is_dir()
        photographs = arguments.data if is_there else draw_photographs(folder / "photographs")
        with photo_server(photographs) as host:
            found = compare(folder, host, arguments.rows, arguments.rounds)
            if arguments.urls:
                found["memory"] = watch_memory(folder, host, arguments.urls)
    versions = [f"{name} {version(name)}" for name in ("img2dataset", "opencv-python-headless", "pillow", "simplejpeg")]
    found["made_with"] = (
        f"{'given' if is_there else 'drawn'} photographs, {os.cpu_count()} cores, {', '.join(versions)}"
    )
    for name, value in () if arguments.json else found.items():
        print(f"{name:30} {value}")
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
