"""What a round over N images will cost, from each step's measured costs: rows, bytes, time, device-hours, memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from blip_bootstrap.schemas.shown_tables import PLAN
from blip_bootstrap.storage.parquet import rows_to_table

Bound = Literal["network", "CPU decode", "CPU", "model", "disk", "start"]


@dataclass(frozen=True)
class Cost:
    """What one step costs, as measured on a sample.

    `seconds_per_image` is of one worker while all `num_workers` work; a worker takes `unit` images at a time.
    `fixed_s` and `fixed_bytes` do not depend on the images. `share` of the list's images reach the step. A step that
    does not scale runs in one process however many workers there are.
    """

    step: str
    rows_per_image: float
    bytes_per_image: float
    seconds_per_image: float
    bound_by: Bound
    fixed_s: float = 0.0
    fixed_bytes: int = 0
    num_workers: int = 1
    unit: int = 1
    share: float = 1.0
    worker_bytes: int = 0
    devices_per_worker: float = 1.0
    device: Literal["CPU", "GPU"] = "CPU"
    scales: bool = True


def plan_steps(costs: Iterable[Cost], num_images: int, workers: int | None, disk_bytes_per_s: float) -> pa.Table:
    """The table `PLAN` for URL lists of `num_images` rows, one row a step; the last row is their sum.

    `workers` is how many workers like the measured ones there will be; None: as many as were measured.
    """
    rows = [_planned(cost, num_images, workers, disk_bytes_per_s) for cost in costs]
    return rows_to_table([*rows, _sum(rows)], PLAN)


def _planned(cost: Cost, num_images: int, workers: int | None, disk_bytes_per_s: float) -> dict[str, Any]:
    images = round(num_images * cost.share)
    num_workers = workers if workers and cost.scales else cost.num_workers
    work_s = busiest(images, num_workers, cost.unit) * cost.seconds_per_image
    size_bytes = round(images * cost.bytes_per_image) + cost.fixed_bytes
    disk_s = size_bytes / disk_bytes_per_s
    seconds = cost.fixed_s + max(work_s, disk_s)
    bound: Bound = cost.bound_by
    if disk_s > (work_s if cost.seconds_per_image else cost.fixed_s):
        bound = "disk"
    elif cost.fixed_s > work_s and images:
        bound = "start" if cost.seconds_per_image else cost.bound_by
    return {
        "step": cost.step,
        "rows": round(images * cost.rows_per_image),
        "size_bytes": size_bytes,
        "seconds": seconds,
        "device_hours": num_workers * cost.devices_per_worker * seconds / 3600,
        "device": cost.device,
        "memory_bytes": num_workers * cost.worker_bytes,
        "bound_by": bound,
    }


def busiest(images: int, workers: int, unit: int) -> int:
    """How many images the worker with the most of them has, where equal workers take `unit` at a time.

    >>> busiest(1500, 2, 512)
    1024
    """
    if images < 1:
        return 0
    whole, rest = (images - 1) // unit, (images - 1) % unit + 1
    return whole // workers * unit + (rest if whole % workers == 0 else unit)


def _sum(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Steps run one after the other: times and bytes add up, memory is that of the largest."""
    slowest = max(rows, key=lambda row: row["seconds"])
    return {
        "step": "all",
        "rows": sum(row["rows"] for row in rows),
        "size_bytes": sum(row["size_bytes"] for row in rows),
        "seconds": sum(row["seconds"] for row in rows),
        "device_hours": sum(row["device_hours"] for row in rows),
        "device": "/".join(sorted({row["device"] for row in rows})),
        "memory_bytes": max(row["memory_bytes"] for row in rows),
        "bound_by": f"{slowest['bound_by']} ({slowest['step']})",
    }


def for_people(plan: pa.Table) -> pa.Table:
    """The plan with units that people read: 1.2 GB, 3 h 20 min."""
    return pa.Table.from_pylist(
        [
            {
                "step": row["step"],
                "rows": f"{row['rows']:,}" if row["rows"] else "",
                "disk": size(row["size_bytes"]) if row["size_bytes"] else "",
                "time": duration(row["seconds"]),
                "device-hours": f"{row['device_hours']:,.3g} {row['device']}",
                "memory": size(row["memory_bytes"]) if row["memory_bytes"] else "",
                "bound by": row["bound_by"],
            }
            for row in plan.to_pylist()
        ]
    )


def size(size_bytes: float) -> str:
    """A number of bytes with its unit, three digits, 1000 B to the kB.

    >>> size(1_234_000_000)
    '1.23 GB'
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size_bytes < 999.5 or unit == "TB":
            return f"{size_bytes:.3g} {unit}" if size_bytes < 999.5 else f"{size_bytes:,.0f} {unit}"
        size_bytes /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """A time in its two largest units.

    >>> duration(12_000)
    '3 h 20 min'
    """
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
