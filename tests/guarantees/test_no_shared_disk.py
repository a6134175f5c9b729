"""A cluster whose nodes share no disk with the driver: they read and write the run through its store alone."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import connect
from tests.support.moto_store import environment, moto_server
from tests.support.small_world import blip, small_config
from tests.support.two_nodes import NOT_THE_PACKAGE, Cluster, needs_namespaces

pytestmark = [needs_namespaces, pytest.mark.ray]

URI = "s3://bucket/runs/mine"

TABLES = {
    "images": "SELECT * EXCLUDE jpg, md5(jpg) AS jpg FROM images ORDER BY key",
    "human": "SELECT * EXCLUDE jpg, md5(jpg) AS jpg FROM human ORDER BY key",
    "captions": "SELECT * FROM captions ORDER BY ALL",
    "filter_check": "SELECT * FROM filter_check ORDER BY ALL",
    "pairs": "SELECT * FROM pairs ORDER BY ALL",
    "metrics": "SELECT * FROM metrics WHERE name NOT LIKE 'seconds%' ORDER BY ALL",
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """An S3 server, and the environment that finds it."""
    with moto_server() as endpoint:
        found = environment(endpoint, tmp_path / "cache")
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.mark.long
def test_two_rounds_on_a_node_without_the_drivers_disk(
    store: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, server = small_config(tmp_path / "local", tmp_path / "world")
    (tmp_path / "local.yaml").write_text(yaml.safe_dump({**config, "ray": {"address": "none"}}))
    with server, Cluster(store) as cluster:
        began = time.monotonic()
        done = blip("run", "--round", "2", "--config", tmp_path / "local.yaml")
        assert done.returncode == 0, done.stderr
        print(f"here: {time.monotonic() - began:.0f} s")
        node = cluster.add(2, [tmp_path, *NOT_THE_PACKAGE])
        assert not any(node.view(tmp_path).iterdir())
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        there = {**config, "root": URI, "ray": {"address": cluster.address}}
        (tmp_path / "store.yaml").write_text(yaml.safe_dump(there))
        began = time.monotonic()
        done = blip("run", "--round", "2", "--config", tmp_path / "store.yaml")
        print(f"there: {time.monotonic() - began:.0f} s\n{done.stderr}")
        assert done.returncode == 0, done.stderr
        assert sorted(one.name for one in node.view(tmp_path).iterdir()) == ["cache"]
        made_there = {one.name for one in node.view(tmp_path).glob("cache/blip-bootstrap/*/mine/artifacts/*")}
        assert {"download_images", "caption_and_score", "pretrain", "finetune_filter"} <= made_there
    with connect(URI) as on_store, connect(tmp_path / "local") as here:
        for name, question in TABLES.items():
            assert query(on_store, question).equals(query(here, question)), name
