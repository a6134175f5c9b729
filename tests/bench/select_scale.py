"""Seconds and memory of selection rules over many captions, made up by chance around a hidden truth.

    .venv/bin/python tests/bench/select_scale.py [--rows 1000000] [--rules NAME ...] [--root DIR] [--json]

Three texts an image, 10,000 rows a file, as a run has them; the answers of the learned rules are 50 of each source.
Each rule runs in a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import duckdb

import __main__
from blip_bootstrap.config import SelectConfig
from blip_bootstrap.schemas.shown_tables import LABELS
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.storage import parquet

ROWS_PER_FILE = 10_000
BY_SHARE = {"strategy": "learned", "cut_by": "share", "keep_fraction": 0.5}
RULES: dict[str, dict[str, Any]] = {
    "threshold": {},
    "ranks": {
        "strategy": "fraction",
        "score": {"web": ["itc", "logprob_per_token"], "synthetic": ["itc", "logprob"]},
        "keep_fraction": {"web": 0.3, "synthetic": 0.5},
    },
    "learned": {"strategy": "learned", "target_noise": 0.2},
    "most_per_image": {**BY_SHARE, "most_per_image": 1},
    "informative": {**BY_SHARE, "most_per_image": 1, "informative_weight": 0.5},
    "variety": {**BY_SHARE, "variety": 0.5},
}

FILE = """
WITH base AS (
    SELECT n, n // 3 AS image, n % 3 AS place, hash(n) / 18446744073709551615.0 AS u,
        hash(n + 777777777) / 18446744073709551615.0 AS v, hash(n + 333333333) / 18446744073709551615.0 AS x
    FROM range({first}, {last}) t(n)
), told AS (
    SELECT *, x < if(place = 0, 0.3, 0.6) AS good, if(place = 0, 4 + (n * 7919) % 9, 3 + (n * 104729) % 6) AS num
    FROM base
)
SELECT lpad(image::VARCHAR, 10, '0') AS key, if(place = 0, 'web', 'synthetic') AS source,
    greatest(0, place - 1)::SMALLINT AS candidate,
    array_to_string(list_transform(range(num), lambda k: 'w' || floor(pow(
        if(place = 0, 20000, 2000), (hash(n * 31 + k) % 1000003) / 1000003.0))::INTEGER), ' ') AS caption,
    (1 / (1 + exp(-(if(good, 1.5, -1.5) + 4 * (u + v - 1)))))::FLOAT AS itm_score,
    (0.3 + if(good, 0.1, 0) + 0.3 * (v - 0.5))::FLOAT AS itc_score,
    (-2.0 * num + if(good, 3, 0) + 6 * (u - 0.5))::FLOAT AS logprob, (num + 2)::SMALLINT AS num_tokens,
    []::VARCHAR[] AS flags, if(place = 0, NULL, 1)::BIGINT AS seed, if(place = 0, NULL, 'captioner') AS captioner,
    NULL::FLOAT AS clip_score, NULL::FLOAT[] AS itm_scores, NULL::FLOAT[] AS itc_scores,
    (-2.0 + if(good, 0.6, 0) + u - 0.5)::FLOAT AS logprob_per_token, (2 * v)::FLOAT AS lift, u::FLOAT AS agreement,
    NULL::FLOAT AS captioner_itc, least(1, v * 0.5 + if(good, 0.5, 0.2))::FLOAT AS distinctness
FROM told ORDER BY n
"""


def make_captions(folder: Path, rows: int) -> None:
    """Files of `captions`, as many as `rows` need; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as connection:
        for number in range(-(-rows // ROWS_PER_FILE)):
            path, first = folder / f"part-{number:05d}.parquet", number * ROWS_PER_FILE
            if not path.exists():
                sql = FILE.format(first=first, last=min(rows, first + ROWS_PER_FILE))
                connection.execute(f"COPY ({sql}) TO '{path}.new' (FORMAT parquet, COMPRESSION zstd)")
                Path(f"{path}.new").rename(path)


def make_labels(path: Path, captions: Path) -> None:
    """Fifty answers of each source, yes where the text is distinct, which the hidden truth makes likely."""
    rows = parquet.read_parquet(parquet.parquet_files(captions)[0]).to_pylist()
    some = [row for source in ("web", "synthetic") for row in [r for r in rows if r["source"] == source][:50]]
    known = {"round": 1, "kept": True, "stratum_rows": 1}
    answered = [
        {name: row.get(name) for name in LABELS.schema.names}
        | known
        | {"answer": "yes" if row["distinctness"] > 0.5 else "no"}
        for row in some
    ]
    parquet.write_parquet(path, parquet.rows_to_table(answered, LABELS), LABELS)


def measure(out: Path, captions: Path, rule: Mapping[str, Any]) -> dict[str, float]:
    """What one rule takes, in this process."""
    __main__.__file__ = __file__  # a spawned process has none, and DuckDB then draws progress bars on standard output
    started = time.perf_counter()
    counts = select_pairs(out, captions, config=SelectConfig.model_validate(rule))
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_gb": used.ru_maxrss * 1024 / 1e9,
        "rows": counts["rows"],  # type: ignore[dict-item]
        "kept": counts["kept"],  # type: ignore[dict-item]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rules", nargs="*", default=list(RULES), choices=list(RULES), metavar="NAME")
    parser.add_argument("--root", type=Path, help="where captions are kept; default: a temporary folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object: rule, figure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.root or Path(scratch)
        captions, labels, found = root / f"captions-{arguments.rows}", root / "labels.parquet", {}
        make_captions(captions, arguments.rows)
        make_labels(labels, captions)
        for name in arguments.rules:
            rule = RULES[name] | ({"labels": str(labels)} if RULES[name].get("strategy") == "learned" else {})
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found[name] = pool.submit(measure, root / "pairs", captions, rule).result()
            print(name, found[name], file=sys.stderr, flush=True)
            shutil.rmtree(root / "pairs")
    if arguments.json:
        print(json.dumps(found))
        return
    print("| rule | seconds | processor seconds | peak GB | kept |\n|---|---|---|---|---|")
    for name, one in found.items():
        print(f"| {name} | {one['seconds']:.0f} | {one['cpu_seconds']:.0f} | {one['peak_gb']:.2f} | {one['kept']:,} |")


if __name__ == "__main__":
    main()
