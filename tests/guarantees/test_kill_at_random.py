"""The real command, killed at 50 random moments over all steps: nothing lost, nothing twice, tables equal."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from blip_bootstrap.storage.parquet import parquet_files
from tests.guarantees.points import differences
from tests.support.run_contents import contents, names, wrong_digests
from tests.support.small_world import blip, command, environment, small_config

pytestmark = pytest.mark.long

KILLS = int(os.environ.get("BLIP_BOOTSTRAP_KILLS", "50"))


def test_killed_at_random_moments(tmp_path: Path) -> None:
    config, server = small_config(tmp_path / "right", tmp_path / "world")
    config["controls"] = {"arms": []}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    arguments = ("run", "--round", "1", "--config", path, "--ray", "none", "--root")
    with server:
        started = time.monotonic()
        done = blip(*arguments, tmp_path / "right")
        assert done.returncode == 0, done.stderr
        whole_s = time.monotonic() - started
        rng, kills, root, roots = random.Random(0), 0, tmp_path / "killed-0", [tmp_path / "killed-0"]
        at: Counter[str] = Counter()
        while kills < KILLS:
            if said := _killed(command(*arguments, root), rng.uniform(0, whole_s / 3), root):
                kills += 1
                at[said] += 1
            else:  # it came to its end: begin another one
                root = tmp_path / f"killed-{len(roots)}"
                roots.append(root)
        for one in roots:
            done = blip(*arguments, one)
            assert done.returncode == 0, done.stderr
    right = contents(tmp_path / "right")
    for one in roots:
        assert [name for name in differences(right, contents(one)) if not _is_timed(name)] == []
        assert names(one) == names(tmp_path / "right")
        assert wrong_digests(one) == []
        _no_row_lost_or_twice(one)
    print(f"{kills} kills over {len(roots)} runs, at: {dict(at)}")  # with -s


def _killed(arguments: list[str], after_s: float, root: Path) -> str:
    """Start the command and kill it after so long: what was last begun then; empty where it had ended."""
    with subprocess.Popen(
        arguments, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as driver:
        try:
            driver.wait(after_s)
            assert driver.returncode == 0
            return ""
        except subprocess.TimeoutExpired:
            os.killpg(driver.pid, signal.SIGKILL)
    begun = [path for path in root.glob("artifacts/*/*") if not (path / "MANIFEST.json").exists()]
    return begun[0].parent.name if begun else "between steps"


def _is_timed(name: str) -> bool:
    """What has seconds in it: lines of a training's log, and counts made of them; pages and figures tell of them."""
    return name.endswith(("metrics.jsonl", "metrics.json", "report.html", " counts"))


def _no_row_lost_or_twice(root: Path) -> None:
    for place, columns in (("images", ["key"]), ("round-01/captions", ["key", "source", "candidate"])):
        rows = [tuple(row.values()) for part in parquet_files(root / place)
                for row in pq.ParquetFile(part).read(columns).to_pylist()]  # fmt: skip
        assert len(rows) == len(set(rows)) > 0
