"""`run --round 2` with its root on an S3 server: killed and gone on with elsewhere, its tables are a local run's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import connect
from tests.support.moto_store import Bucket, environment, moto_server
from tests.support.small_world import blip, command, small_config

URI = "s3://bucket/runs/mine"

TABLES = (
    "SELECT * EXCLUDE (jpg, attempts, robots_txt), md5(jpg) AS jpg FROM images ORDER BY key",
    "SELECT * EXCLUDE jpg, md5(jpg) AS jpg FROM human ORDER BY key",
    "SELECT * FROM captions ORDER BY ALL",
    "SELECT * FROM filter_check ORDER BY ALL",
    "SELECT * FROM pairs ORDER BY ALL",
    "SELECT * FROM metrics WHERE name NOT LIKE 'seconds%' ORDER BY ALL",
)

KILLED_AFTER = ("pretrain", "caption_and_score", "finetune_filter")
"""The run is killed a little after each of these steps is named."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as found:
        yield found


def killed_after(step: str, *arguments: str | Path, wait_s: float = 1.0) -> list[str]:
    """Run the command and kill it with all its processes after it says that it makes `step`; the lines so far."""
    child = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stderr
    lines = []
    for line in child.stderr:
        lines.append(line.strip())
        if line.strip().removesuffix(" (going on)").endswith(f": {step}"):
            break
    time.sleep(wait_s)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    child.stderr.close()
    return lines


@pytest.mark.long
def test_two_rounds_on_a_store_killed_and_gone_on_with(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, server = small_config(tmp_path / "local", tmp_path / "world")
    config["ray"] = {"address": "none"}
    (tmp_path / "local.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "store.yaml").write_text(yaml.safe_dump({**config, "root": URI}))
    for name, value in environment(endpoint, tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    with server:
        began = time.monotonic()
        done = blip("run", "--round", "2", "--config", tmp_path / "local.yaml")
        assert done.returncode == 0, done.stderr
        local_s = time.monotonic() - began
        for step in KILLED_AFTER:
            said = killed_after(step, "run", "--round", "2", "--config", tmp_path / "store.yaml")
            assert step in said[-1]
            shutil.rmtree(tmp_path / "cache")
        began = time.monotonic()
        done = blip("run", "--round", "2", "--config", tmp_path / "store.yaml")
        assert done.returncode == 0, done.stderr
        print(f"local {local_s:.0f} s, the last part on the store {time.monotonic() - began:.0f} s")
        shutil.rmtree(tmp_path / "cache")
        again = blip("run", "--round", "2", "--config", tmp_path / "store.yaml")
    assert again.returncode == 0, again.stderr
    assert "(going on)" in done.stderr or "current" in done.stderr
    steps = [line for line in again.stderr.splitlines() if line.startswith(("images", "human", "held_out", "round-"))]
    assert len(steps) > 20
    assert [line for line in steps if not line.endswith(": current")] == []
    assert "report: s3://bucket/runs/mine/round-02/report.html" in again.stdout
    with connect(URI) as there, connect(tmp_path / "local") as here:
        for question in TABLES:
            assert query(there, question).equals(query(here, question)), question
    bucket = Bucket(endpoint)
    assert b"root: s3://bucket/runs/mine\n" in bucket["runs/mine/config.yaml"]
    left = [key for key in bucket.names() if any(part.startswith(".") for part in key.split("/"))]
    assert [key for key in left if not key.endswith(("MANIFEST.json", ".given.sha256"))] == []
