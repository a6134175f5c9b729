"""The cores and the memory that this process may use: those of the machine, less what a container or batch job allows.

`os.cpu_count()` knows neither CPU affinity, by which SLURM and `taskset` give cores to a job, nor the quota of a
control group, by which Docker and Kubernetes do: a job of 2 cores on a machine of 96 would start 96 threads.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS, OWN_CGROUPS, MEMORY_INFO = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/meminfo")

ONE = 1
"""What a system that says nothing has of cores."""

UNLIMITED = 1 << 60
"""Version 1 of control groups says "no limit" as a number over this."""


def num_cores() -> int:
    """Cores that this process may keep busy, one at least; half a core of a quota counts as one."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or ONE
    return max(ONE, min(affinity, math.ceil(min(_quotas(), default=affinity))))


def free_bytes() -> int:
    """Memory that could be taken now without swapping, in bytes; 0 where the system does not say."""
    return min((_of_machine("MemAvailable"), *_left_of_limits()))


def memory_bytes() -> int:
    """All memory that processes here may take together, in bytes; 0 where the system does not say."""
    return min((_of_machine("MemTotal"), *(limit for _, limit in _limits())))


def _quotas() -> Iterator[float]:
    """Cores that each control group above this process allows, where it has a quota."""
    for folder in _folders("cpu"):
        words = _words(folder / "cpu.max") or [_word(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):  # else "max", or -1
            yield int(words[0]) / int(words[1])


def _limits() -> Iterator[tuple[Path, int]]:
    """Each control group above this process that limits memory, and its limit in bytes."""
    for folder in _folders("memory"):
        limit = _word(folder / "memory.max") or _word(folder / "memory.limit_in_bytes")
        if limit.isdecimal() and int(limit) < UNLIMITED:
            yield folder, int(limit)


def _left_of_limits() -> Iterator[int]:
    """What is left of each limit; files that are cached and not in use count as left."""
    for folder, limit in _limits():
        used = _word(folder / "memory.current") or _word(folder / "memory.usage_in_bytes")
        words = _words(folder / "memory.stat")
        cached = dict(zip(words[::2], words[1::2], strict=False)).get("inactive_file", 0)
        yield max(0, limit - int(used or 0) + int(cached))


def _folders(controller: str) -> Iterator[Path]:
    """The control groups of this process and those above, nearest first: of version 2, and of one controller of 1."""
    for line in _read(OWN_CGROUPS).splitlines():
        _, names, place = line.split(":", 2)
        if names == "" or controller in names.split(","):
            root = CGROUPS / controller if names else CGROUPS
            # In a container the group may be named as the host has it, while its files lie at the root.
            yield from (root / part for part in (Path(place.lstrip("/")), *Path(place.lstrip("/")).parents))


def _of_machine(name: str) -> int:
    words = next((line.split() for line in _read(MEMORY_INFO).splitlines() if line.startswith(f"{name}:")), [])
    return int(words[1]) * 1024 if len(words) > 1 else 0


def _word(file: Path) -> str:
    return next(iter(_words(file)), "")


def _words(file: Path) -> list[str]:
    return _read(file).split()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
