"""A cluster whose nodes share no disk with the driver: they read and write the run through its store alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster_runs import URI, begun, differences, download, rounds, said, written
from tests.support.moto_store import empty_store
from tests.support.small_world import small_config
from tests.support.two_nodes import NOT_THE_PACKAGE, Cluster, needs_namespaces

pytestmark = [needs_namespaces, pytest.mark.ray]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """An S3 server, and the environment that finds it."""
    with empty_store(tmp_path / "cache", monkeypatch) as (found, _):
        yield found


def made_on(node_view: Path) -> set[str]:
    """The steps of which a node's working copy has something."""
    return {one.name for one in node_view.glob("cache/blip-bootstrap/*/mine/artifacts/*")}


def test_a_root_that_a_node_does_not_see_is_told_before_any_work(store: dict[str, str], tmp_path: Path) -> None:
    lists = tmp_path / "list.tsv"
    lists.write_text("https://127.0.0.1:9/1.jpg\ta cat\n")
    config: dict[str, Any] = {"download": {"urls": [{"path": str(lists)}]}}
    with Cluster(store) as cluster:
        cluster.add(1, [tmp_path])
        run = begun(
            download(written(config, tmp_path, "there", tmp_path / "run", cluster.address)), cluster.environment
        )
        told, _ = run.communicate(timeout=120)
    assert run.returncode != 0
    last = told.strip().splitlines()[-1]
    assert f"{tmp_path}/run: node " in last
    assert "(127.0.0.3) does not see this folder; mount the run's folder there under the same path, or put" in last
    assert not list((tmp_path / "run").glob("artifacts/*/*/rows"))


@pytest.mark.long
def test_two_rounds_on_a_node_without_the_drivers_disk(store: dict[str, str], tmp_path: Path) -> None:
    """The second node sees nothing of this test's folder, where lists, pictures, tokenizer and the root's copy lie."""
    config, server = small_config(tmp_path / "local", tmp_path / "world")
    with server, Cluster(store) as cluster:
        began = time.monotonic()
        said(begun(rounds(written(config, tmp_path, "local", tmp_path / "local", "none"), 2), {}))
        print(f"in one process: {time.monotonic() - began:.0f} s")
        node = cluster.add(3, [tmp_path, *NOT_THE_PACKAGE])
        assert not any(node.view(tmp_path).iterdir())
        began = time.monotonic()
        told = said(begun(rounds(written(config, tmp_path, "there", URI, cluster.address), 2), cluster.environment))
        print(f"on the node: {time.monotonic() - began:.0f} s\n{told}")
        assert sorted(one.name for one in node.view(tmp_path).iterdir()) == ["cache"]
        steps = {"download_images", "caption_and_score", "check_filter", "pretrain", "finetune_filter", "evaluate"}
        assert steps <= made_on(node.view(tmp_path))
    assert differences(tmp_path / "local", URI) == []


@pytest.mark.long
def test_workers_of_a_trainer_on_two_nodes_without_a_disk_in_common(store: dict[str, str], tmp_path: Path) -> None:
    config, server = small_config(tmp_path / "local", tmp_path / "world", num_web=60)
    config["pretrain"] |= {"num_workers": 2}
    config["controls"] = {"arms": []}
    with server, Cluster(store) as cluster:
        nodes = [cluster.add(cpus, [tmp_path, *NOT_THE_PACKAGE]) for cpus in (1, 1)]
        told = said(begun(rounds(written(config, tmp_path, "there", URI, cluster.address), 0), cluster.environment))
        assert all("pretrain" in made_on(node.view(tmp_path)) for node in nodes)
    assert "round-00/model: done" in told
