"""A run of millions of rows on this machine: memory of the driver, seconds of each step, of a rerun, of 1 % more.

    .venv/bin/python tests/bench/scale.py [--json] [--rows 1000000 10000000] [--root DIR] [--ray none]

Only fetching, decoding and the two models are stubbed: a row's picture is some 30 bytes made of its URL, its synthetic
text and scores are made of its key. All else is that of `run --round 1`: lists, the workers that write parts, notes and
digests, the Maker, manifests, pointers, select, metrics and the pages. For each size there are four commands, each a
process of its own: the first run; the same again; `why` with a key; and a run with a second list, of 1 % more rows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1"}
os.environ.setdefault("OMP_NUM_THREADS", "1")
REPOSITORY = Path(__file__).parents[2]
PATHS = [str(REPOSITORY / part) for part in (".", "training", "pipelines")]
sys.path[:0] = PATHS

import duckdb  # noqa: E402

from blip_bootstrap.config import Config, load_config  # noqa: E402
from blip_bootstrap.loop import rounds  # noqa: E402
from blip_bootstrap.schemas.tables import IMAGES  # noqa: E402
from blip_pipelines.caption import step as caption_step  # noqa: E402
from blip_pipelines.caption.blocks import CaptionBlocks  # noqa: E402
from blip_pipelines.cluster.session import connect  # noqa: E402
from blip_pipelines.ingest import download  # noqa: E402
from blip_pipelines.scoring.rows import CaptionRow  # noqa: E402

STEPS = ("images", "captions", "pairs")
"""The steps whose seconds count as those of the run; the lists are read, cut and compared in `images`."""

FAILED_OF = 12
"""One row of so many cannot be fetched."""

BATCH = 64


def stub_rows(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A picture of some bytes for each row."""
    empty = dict.fromkeys(IMAGES.schema.names)
    sizes = {"width": 224, "height": 224, "original_width": 640, "original_height": 480}
    for row in rows:
        if row["status"] is not None:
            yield empty | row
        elif int(row["uid"][:4], 16) % FAILED_OF == 0:
            told = {"status": "failed_to_download", "error_class": "not_found", "error_message": "HTTP 404"}
            yield empty | row | told
        else:
            jpg = row["url"].encode()[-30:]
            yield empty | row | sizes | {"status": "success", "sha256": hashlib.sha256(jpg).hexdigest(), "jpg": jpg}


class StubDownload(download.ShardDownload):
    """The worker of the download, without a web."""

    def _rows(self, listed: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], int]]:
        return ((row, 0) for row in stub_rows(listed))


class StubModels:
    """In place of `CaptionWorker`: one synthetic text for each picture, and scores that the key makes."""

    batch_size = BATCH
    metadata: ClassVar = {"captioner": "stub", "filter": "stub"}

    def in_blocks(self, blocks: Iterable[Iterable[dict[str, Any]]]) -> Iterator[tuple[list[CaptionRow], bool]]:
        """Batches of a block's texts, and whether each is the last."""
        for images in blocks:
            rows = [row for row in images if row["status"] == "success"]
            batches = [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)] or [[]]
            for number, batch in enumerate(batches, 1):
                yield [text for row in batch for text in self._texts(row)], number == len(batches)

    def _texts(self, row: dict[str, Any]) -> Iterator[CaptionRow]:
        chance = int(row["uid"][:8], 16)
        for source, text, shift in (("web", row["caption"], 0), ("synthetic", f"a picture of {row['uid'][:3]}", 7)):
            made = CaptionRow(row["key"], source, 0, text, 8)
            made.itm_score, made.itc_score = ((chance >> shift) % 1000) / 1000, ((chance >> shift) % 997) / 2000
            if source == "synthetic":
                made.seed, made.captioner = chance, "captioner"
                made.logprob, made.logprob_per_token = -8.0 - chance % 5, -1.0 - chance % 5 / 8
            yield made


class StubBlocks(CaptionBlocks):
    """The worker of the captions, without models."""

    @property
    def _worker(self) -> Any:
        return StubModels()


def write_list(path: Path, first: int, last: int) -> None:
    """A list of the rows `first` up to `last`: hosts, words and lengths as in a web crawl, one in 500 rows twice."""
    words = "list_transform(range(3 + n % 9), lambda k: 'w' || ((hash(n * 31 + k) % 1000003) % (10 + hash(k) % 20000)))"
    sql = (
        f"SELECT 'https://host' || (hash(n - (n % 500 = 499)::INT) % 20000) || '.example/' "
        f"|| (n - (n % 500 = 499)::INT) || '.jpg' AS url, "
        f"CASE WHEN n % 500 = 499 THEN 'twice' WHEN n % 500 = 498 THEN 'twice' "
        f"ELSE array_to_string({words}, ' ') END AS caption FROM range({first}, {last}) t(n)"
    )
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({sql}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")


def config_of(folder: Path, lists: Sequence[str], ray: str) -> Config:
    """A round with given models, which are stubs, and no training."""
    urls = ", ".join(f"{{path: {folder / one}}}" for one in lists)
    settings = [
        f"download.urls=[{urls}]", "captioner.checkpoint=stub/captioner", "filter.checkpoint=stub/filter",
        "pretrain.optimizer.steps=0", "filter_check.pictures=0", "caption.references=0", "caption.lift_references=0",
        f"ray.address={ray}",
    ]  # fmt: skip
    return load_config(None, settings, root=folder / "run")


def stub() -> None:
    """Put the stubs in place of the web and of the models, in this process."""
    for module, name, stand_in in (
        (download, "ShardDownload", StubDownload), (caption_step, "CaptionBlocks", StubBlocks),
        (rounds, "check_given", lambda config, number: []), (rounds, "note_given", lambda config, number: None),
    ):  # fmt: skip
        setattr(module, name, stand_in)


def child(folder: Path, lists: Sequence[str], ray: str, starts_ray: bool) -> dict[str, Any]:
    """One run in this process: seconds by line of progress, and the peak of this process's memory.

    With `starts_ray` Ray is started before the run, so that its start counts for itself and for no step.
    """
    stub()
    started = last = time.monotonic()
    seconds: dict[str, float] = {}

    def say(line: str) -> None:
        nonlocal last
        now = time.monotonic()
        name = line.partition(":")[0].rpartition("/")[2]
        seconds[name] = seconds.get(name, 0.0) + now - last
        print(f"{now - started:8.1f} s  {line}", file=sys.stderr, flush=True)
        last = now

    config = config_of(folder, lists, ray)
    if starts_ray:
        connect(config.ray)
        say("ray: started")
    rounds.run_rounds(config, 1, say)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": round(time.monotonic() - started, 2), "peak_mib": round(peak, 1)} | {
        "by_step": {name: round(one, 2) for name, one in seconds.items()}
    }


def command(*arguments: str) -> tuple[str, float]:
    """The standard output of a Python process, and its seconds from start to end."""
    started = time.monotonic()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)}
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, check=True, text=True, env=environment)
    return done.stdout, time.monotonic() - started


def measure(rows: int, folder: Path, ray: str) -> dict[str, Any]:
    """The figures of one size."""
    folder.mkdir(parents=True, exist_ok=True)
    added = max(1, rows // 100)
    write_list(folder / "first.parquet", 0, rows)
    write_list(folder / "added.parquet", rows, rows + added)

    def run(*lists: str, starts_ray: bool = ray != "none") -> dict[str, Any]:
        start = ["--starts-ray"] if starts_ray else []
        told, whole = command(__file__, "--child", str(folder), "--ray", ray, *start, "--lists", *lists)
        found: dict[str, Any] = json.loads(told.splitlines()[-1])
        return found | {"with_start": round(whole, 2)}

    first = run("first.parquet")
    again = run("first.parquet", starts_ray=False)  # it makes nothing, and needs no worker
    key = f"{(rows // 2) // 10_000:05d}00017"
    _, why_s = command("-m", "blip_bootstrap", "why", key, "--root", str(folder / "run"))
    grown = run("first.parquet", "added.parquet")
    known = {"rows": rows, "first": first, "rerun": again, "why_s": round(why_s, 2), "one_percent": grown}
    share = steps_of(grown) / steps_of(first)
    return known | {"add_1pct_share": round(share, 4), "bytes_on_disk": size_of(folder / "run")}


def steps_of(run: dict[str, Any]) -> float:
    """Seconds of lists, images, captions and pairs."""
    return sum(float(run["by_step"].get(name, 0.0)) for name in STEPS)


def size_of(folder: Path) -> int:
    """Bytes of the files of a run."""
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file() and not one.is_symlink())


def figures(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is judged: of the largest size, and its driver's memory over that of the smallest."""
    small, large = found[0], found[-1]
    return {
        "driver_ratio_10m_1m": round(large["first"]["peak_mib"] / small["first"]["peak_mib"], 3),
        "rerun_s_10m": large["rerun"]["seconds"],
        "why_s_10m": large["why_s"],
        "add_1pct_share": large["add_1pct_share"],
        "rows": large["rows"],
        "rows_small": small["rows"],
        "sizes": list(found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000], help="sizes, ascending")
    parser.add_argument("--root", type=Path, help="where the runs are left; default: a temporary folder")
    parser.add_argument("--ray", default="local", help="local: workers of Ray's (default); none: all in one process")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--starts-ray", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--lists", nargs="+", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.child, arguments.lists, arguments.ray, arguments.starts_ray)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.root or Path(scratch)
        each = partial(measure, ray=arguments.ray)
        found = figures([each(rows, root / f"{rows}") for rows in arguments.rows])
    if arguments.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name}: {json.dumps(value)}")


if __name__ == "__main__":
    main()
