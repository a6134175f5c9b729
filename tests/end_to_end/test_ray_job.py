"""`ray job submit`: the command as a job of a cluster, as docs/clusters.md shows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import connect
from tests.support.cluster_runs import small
from tests.support.two_nodes import Cluster

pytest.importorskip("aiohttp_cors", reason="jobs need the extra `dashboard`")

pytestmark = [pytest.mark.ray, pytest.mark.long]

__all__ = ["small"]


def shown(cluster: Cluster, kind: str) -> list[dict[str, Any]]:
    """What the dashboard shows of a kind, as Ray's own command gets it."""
    asked = [str(Path(sys.executable).with_name("ray")), "list", kind, "--address", cluster.jobs, "--format", "json"]
    said = subprocess.run(
        [*asked, "--limit", "1000"], capture_output=True, text=True, timeout=100, check=True,
        env={**os.environ, **cluster.environment},
    )  # fmt: skip
    found: list[dict[str, Any]] = json.loads(said.stdout)
    return found


def test_a_round_as_a_job(small: tuple[dict[str, Any], Path]) -> None:
    config, folder = small
    config["pretrain"]["optimizer"] |= {"steps": 2, "batch_size": 8}
    work = folder / "sent"
    work.mkdir()
    (work / "my.yaml").write_text(yaml.safe_dump({**config, "root": str(folder / "run")}))
    with Cluster({}, head_cpus=3, dashboard=True) as cluster:
        asked = [
            str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", cluster.jobs,
            "--working-dir", str(work), "--", sys.executable, "-m", "blip_bootstrap",
            "run", "--round", "0", "--config", "my.yaml", "--ray", "auto",
        ]  # fmt: skip
        done = subprocess.run(
            asked, capture_output=True, text=True, timeout=400, env={**os.environ, **cluster.environment}
        )
        actors, tasks = shown(cluster, "actors"), shown(cluster, "tasks")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert "round-00/model: done" in done.stdout
    assert "download" in {one["class_name"] for one in actors}
    assert any(str(one["name"]).startswith("download ") for one in actors)
    assert {"train pretrain", "download.do"} <= {one["name"] for one in tasks}
    with connect(folder / "run") as run:
        assert query(run, "SELECT count(*) AS n FROM images").to_pylist()[0]["n"] > 90
