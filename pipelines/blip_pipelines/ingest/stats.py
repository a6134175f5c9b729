"""The counts and times of one part of a download, in a file beside it, as img2dataset writes them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from blip_bootstrap.schemas.closed_lists import ERROR_CLASSES, STATUSES
from blip_bootstrap.storage.files import write_whole


def stats_of(part: Path) -> Path:
    """The stats file of a part: `part-00000_stats.json` beside `part-00000.parquet`."""
    return part.with_name(f"{part.stem}_stats.json")


def write_stats(part: Path, counts: Mapping[str, int], started: float, ended: float) -> None:
    """Write what img2dataset's stats hold: counts of rows by status, and times in seconds since 1970.

    `counts` has `images`, statuses and error classes. `status_dict` counts successes and, where img2dataset counts
    messages, error classes; `rejected` rows, which were never fetched, are ours.
    """
    seen = Counter(counts)
    stats = {
        "count": seen["images"],
        "successes": seen["success"],
        "failed_to_download": seen["failed_to_download"],
        "failed_to_resize": seen["failed_to_resize"],
        "rejected": seen["rejected"],
        "duration": ended - started,
        "start_time": started,
        "end_time": ended,
        "status_dict": {name: seen[name] for name in (STATUSES[0], *ERROR_CLASSES) if seen[name]},
    }
    write_whole(stats_of(part), json.dumps(stats, indent=4) + "\n")
