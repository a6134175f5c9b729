"""What a run holds, in a form that two runs can be compared by: tables, weights, figures, records, names of files."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from blip_bootstrap.storage.manifest import digest_of_path
from blip_bootstrap.storage.parquet import parquet_files
from blip_bootstrap.storage.run_folder import manifest_places, pointers_in, read_json

PAGE = re.compile(r"\.(metrics\.json|report\.html)\..*tmp$")

DATED = {"made", "seconds", "samples_per_s", "feed_wait", "mfu", "gpu_memory_gib"}

TIMES = {"duration", "start_time", "end_time"}

DATED_COLUMNS = {"attempts", "said_at"}


def contents(root: Path) -> dict[str, Any]:
    """Every table row for row, weights, figures and counts by place; the rounds' records; and the names that are there.

    Without what no two runs have alike: dates, seconds, and the digests that artifacts' folders are named by.
    """
    found: dict[str, Any] = {}
    for name, manifest in sorted(manifest_places(root).items()):
        place = root / name
        told = read_json(manifest)
        found[f"{name} counts"] = {key: one for key, one in told["counts"].items() if key not in DATED}
        if place.is_dir():
            found[name] = [_rows(part) for part in parquet_files(place)]
            for other in sorted(place.rglob("*")):
                if other.is_file() and other.suffix in (".safetensors", ".json", ".jsonl") and other.name[0] != "M":
                    found[other.relative_to(root).as_posix()] = _undated(other)
    for record in (root / "shared.json", *sorted(root.glob("round-*/round.json"))):
        told = read_json(record) or {}
        names = {name: (root / name).resolve() == root.resolve() / one["folder"]
                 for name, one in pointers_in(record).items()}  # fmt: skip
        found[record.relative_to(root).as_posix()] = names, told.get("finished")
    return found


def _undated(file: Path) -> Any:
    """The content of a file; of the stats of a part its counts, without the times."""
    if not file.name.endswith("_stats.json"):
        return file.read_bytes()
    return {name: one for name, one in json.loads(file.read_bytes()).items() if name not in TIMES}


def _rows(part: Path) -> Any:
    try:
        rows = pq.ParquetFile(part).read()
        return rows.select([name for name in rows.column_names if name not in DATED_COLUMNS]).to_pylist()
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        return f"damaged: {error}"


def names(root: Path) -> Counter[str]:
    """Every name under a run, an artifact's folder as `STEP/#`: what is left behind shows here.

    Without what a killed process was writing of a page, which may be another's and goes when it is an hour old.
    """
    listed = (path.relative_to(root).as_posix() for path in root.rglob("*") if not PAGE.search(path.name))
    return Counter(re.sub(r"^(artifacts/\w+)/[^/]+", r"\1/#", one) for one in listed)


def wrong_digests(root: Path) -> list[str]:
    """Files of whole artifacts that are not as their MANIFEST says."""
    found = []
    for manifest in root.glob("artifacts/*/*/MANIFEST.json"):
        for entry in (read_json(manifest) or {})["files"]:
            file = manifest.parent / entry["name"]
            if not file.is_file() or digest_of_path(file) != entry["sha256"]:
                found.append(str(file.relative_to(root)))
    return found
