"""Audits and selection over 10 M caption rows made for it, beside pandas doing the noise table.

    .venv/bin/python tests/bench/audit.py [--json] [--rows 10000000] [--keep DIR]

Prints seconds of every audit (the second of two runs), of one selection, the peak memory of both, and how much longer
pandas takes for the noise table, reading included.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import duckdb

from blip_bootstrap.audit.audits import AUDITS, ask
from blip_bootstrap.audit.languages import identify_languages
from blip_bootstrap.config import SelectConfig
from blip_bootstrap.query.views import connect
from blip_bootstrap.schemas import tables
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.storage import parquet

ROWS_PER_FILE = 20_000
PANDAS = """
import sys, time, pandas as pd
started = time.perf_counter()
pairs = pd.read_parquet(sys.argv[1], columns=["source", "kept", "rejected"])
table = pairs.groupby("source").kept.agg(["size", "sum"])
table["dropped"] = 1 - table["sum"] / table["size"]
table["noise"] = pairs.dropna(subset="rejected").astype({"rejected": bool}).groupby("source").rejected.mean()
print(time.perf_counter() - started)
"""


def make_captions(folder: Path, rows: int) -> None:
    """Two texts an image, of a few words out of 30,000, with two hills of scores."""
    with duckdb.connect() as connection:
        for part in range(-(-rows // ROWS_PER_FILE)):
            path = folder / f"part-{part:05d}.parquet"
            if path.exists():
                continue
            made = connection.sql(f"""
                SELECT format('{part:05d}{{:05d}}', i // 2) AS key, if(i % 2 = 0, 'web', 'synthetic') AS source,
                    0::SMALLINT AS candidate, list_aggregate(list_transform(range(3 + (i * 7) % 9),
                        lambda j: 'w' || floor(30000 * (hash({part}, i, j) / 18446744073709551615.0) ** 3)::INTEGER),
                        'string_agg', ' ') AS caption,
                    if(random() < 0.6, 1 - random() ** 3, random() ** 3)::FLOAT AS itm_score,
                    random()::FLOAT AS itc_score, -random()::FLOAT AS logprob, 9::SMALLINT AS num_tokens,
                    []::VARCHAR[] AS flags, i::BIGINT AS seed, if(i % 2 = 0, NULL, 'captioner') AS captioner,
                    NULL AS itm_scores, NULL AS itc_scores, NULL::FLOAT AS clip_score
                FROM range({ROWS_PER_FILE}) t(i) ORDER BY i
            """).to_arrow_table()
            parquet.write_parquet(path, made, tables.CAPTIONS)


def make_images(folder: Path, rows: int) -> None:
    """An image row for every two captions, without pictures."""
    with duckdb.connect() as connection:
        for part in range(-(-rows // ROWS_PER_FILE)):
            path = folder / f"part-{part:05d}.parquet"
            nulls = "NULL AS error_class, NULL AS error_message, NULL AS exif, NULL AS jpg"
            if not path.exists():
                made = connection.sql(f"""
                    SELECT format('{part:05d}{{:05d}}', i) AS key, md5('{part} ' || i) AS uid, 'made' AS dataset,
                        'https://host' || (i % 97) || '.example/' || i || '.jpg' AS url, 'w1 w2' AS caption,
                        'success' AS status, 256 AS width, 256 AS height, 256 AS original_width,
                        256 AS original_height, md5('s' || i) AS sha256, {nulls}
                    FROM range({ROWS_PER_FILE // 2}) t(i) ORDER BY i
                """).to_arrow_table()
                parquet.write_parquet(path, made, tables.IMAGES)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(root: Path, rows: int) -> dict[str, float | str | dict[str, float]]:
    make_images(root / "images", rows)
    captions, pairs = root / "round-01" / "captions", root / "round-01" / "pairs"
    make_captions(captions, rows)
    shutil.rmtree(pairs, ignore_errors=True)
    select_s = seconds(lambda: select_pairs(pairs, captions, config=SelectConfig()))
    identify_languages(root, 1)
    with connect(root) as connection:
        audits = {name: min(seconds(partial(ask, connection, name)) for _ in range(2)) for name in AUDITS}
        noise_s = audits["noise"]
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    done = subprocess.run([sys.executable, "-c", PANDAS, str(pairs)], capture_output=True, text=True, check=True)
    return {
        "rows": rows,
        "slowest_audit": max(audits, key=lambda name: audits[name]),
        "slowest_audit_s": round(max(audits.values()), 3),
        "select_s": round(select_s, 3),
        "peak_gib": round(peak_gib, 3),
        "ratio_pandas": round(float(done.stdout) / noise_s, 2),
        "audits_s": {name: round(value, 3) for name, value in audits.items()},
        "versions": f"duckdb {duckdb.__version__}, python {platform.python_version()}, {platform.machine()}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--keep", type=Path, help="make the rows here, and use them again next time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(arguments.keep or Path(scratch), arguments.rows)
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:16} {value}")


if __name__ == "__main__":
    main()
