"""Cores and memory by control groups of both versions, with files as Linux has them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from blip_bootstrap import machine

Fake = Callable[[str, dict[str, str]], None]

GB = 10**9


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A machine of 96 cores and 64 GB, of which 50 are free; the function puts this process into control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(96)))
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "MEMORY_INFO", tmp_path / "memory")
    (tmp_path / "memory").write_text("MemTotal: 62500000 kB\nMemFree: 1 kB\nMemAvailable: 48828125 kB\n")

    def put(own: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return put


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("", {}, 96),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/job/step\n", {"job/step/cpu.max": "max 100000\n", "job/cpu.max": "350000 100000\n"}, 4),
        ("0::/job\n", {"job/cpu.max": "10000 100000\n"}, 1),
        ("0::/named/by/the/host\n", {"cpu.max": "300000 100000\n"}, 3),
        (
            "4:cpu,cpuacct:/job\n0::/\n",
            {"cpu/job/cpu.cfs_quota_us": "250000", "cpu/job/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 96),
        ("0::/\n", {"cpu.max": "garbage\n"}, 96),
        ("0::/\n", {"cpu.max": "9999999999 100000\n"}, 96),
    ],
)
def test_cores_of_a_quota(fake: Fake, own: str, files: dict[str, str], cores: int) -> None:
    fake(own, files)
    assert machine.num_cores() == cores


def test_cores_of_an_affinity(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("0::/\n", {"cpu.max": "800000 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert machine.num_cores() == 2


@pytest.mark.parametrize(
    ("own", "files", "total", "free"),
    [
        ("", {}, 64 * GB, 50 * GB),
        (
            "0::/job\n",
            {"job/memory.max": "8000000000", "job/memory.current": "5000000000",
             "job/memory.stat": "anon 1\ninactive_file 2000000000\n"},
            8 * GB,
            5 * GB,
        ),
        ("0::/\n", {"memory.max": "max\n"}, 64 * GB, 50 * GB),
        (
            "7:memory:/job\n",
            {"memory/job/memory.limit_in_bytes": "4000000000", "memory/job/memory.usage_in_bytes": "1000000000"},
            4 * GB,
            3 * GB,
        ),
        ("7:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, 64 * GB, 50 * GB),
    ],
)  # fmt: skip
def test_memory(fake: Fake, own: str, files: dict[str, str], total: int, free: int) -> None:
    fake(own, files)
    assert (machine.memory_bytes(), machine.free_bytes()) == (total, free)
