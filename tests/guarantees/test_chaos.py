"""Workers and a node are killed while a cluster works: the run goes on, and its tables are an undisturbed run's."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.cluster_runs import (
    TABLES,
    URI,
    Killer,
    begun,
    differences,
    download,
    ended,
    rounds,
    said,
    small,
    until,
    written,
)
from tests.support.moto_store import Bucket, empty_store
from tests.support.small_world import small_config
from tests.support.two_nodes import NOT_THE_PACKAGE, Cluster, needs_namespaces

pytestmark = [needs_namespaces, pytest.mark.ray]

__all__ = ["small"]

IMAGES = {"images": TABLES["images"]}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, str], Bucket]]:
    with empty_store(tmp_path / "cache", monkeypatch) as found:
        yield found


@pytest.mark.long
def test_a_download_outlives_a_worker_and_a_node(
    store: tuple[dict[str, str], Bucket], small: tuple[dict[str, Any], Path]
) -> None:
    (variables, bucket), (config, folder) = store, small
    local = begun(download(written(config, folder, "local", folder / "local", "none")), {})
    with Cluster(variables) as cluster:
        nodes = cluster.add_all([2, 2], [folder, *NOT_THE_PACKAGE])
        killer = Killer(cluster)
        said(local)
        run = begun(download(written(config, folder, "there", URI, cluster.address)), cluster.environment)

        def parts() -> int:
            return sum("/part-" in key and "/rows/" not in key for key in bucket.names())

        until(lambda: parts() > 0)
        until(killer.worker)
        until(lambda: any(node.workers() and not killer.node(node) for node in nodes))
        told = said(run)
    assert killer.workers
    assert "images: done" in told
    assert differences(folder / "local", URI, IMAGES) == []
    # The comparison sees a row that is lost.
    part = next((folder / "local").glob("artifacts/download_images/*/part-00001.parquet"))
    pq.write_table(pq.read_table(part).slice(1), part)
    assert differences(folder / "local", URI, IMAGES) == ["images"]


NODE_DIES_IN = ("download_images", "pretrain", "finetune_filter", "caption_and_score", "evaluate")


@pytest.mark.long
def test_two_rounds_outlive_workers_and_a_node_in_each_step(
    store: tuple[dict[str, str], Bucket], tmp_path: Path
) -> None:
    """A worker is killed on a timer, one in each step at most, and a node in each of five, for which another comes."""
    variables, _ = store
    config, server = small_config(tmp_path / "local", tmp_path / "world", num_web=96)
    config["download"] |= {"rows_per_shard": 24, "timeout_s": 10.0}  # a busy machine fails no row
    hidden = [tmp_path, *NOT_THE_PACKAGE]
    with server, Cluster(variables) as cluster:
        local = begun(rounds(written(config, tmp_path, "local", tmp_path / "local", "none"), 1), {})
        cluster.add(2, hidden)
        killer, left = Killer(cluster), list(NODE_DIES_IN)
        began = time.monotonic()
        run = begun(rounds(written(config, tmp_path, "there", URI, cluster.address), 1), cluster.environment)
        with ended(run), killer.every(20.0):
            assert run.stdout
            for line in run.stdout:
                print(f"{time.monotonic() - began:6.1f}  {line.rstrip()}", flush=True)
                if re.fullmatch(r"[\w./-]+: [a-z_]+( \(.*)?", line.rstrip()):  # not what Ray says of a dead worker
                    killer.at(line.strip())
                if left and line.rstrip().endswith(f": {left[0]}"):
                    left.pop(0)
                    until(lambda: bool(killer.alive()[-1].workers()), 300.0)
                    killer.node(killer.alive()[-1])
                    cluster.add(2, hidden)
        print(f"killed: {killer.workers}, nodes {killer.nodes}")
        assert run.wait() == 0
        said(local)
    assert not left
    assert len(killer.nodes) == len(NODE_DIES_IN)
    assert killer.workers
    assert differences(tmp_path / "local", URI) == []


def test_the_comparison_knows_a_lost_row(finished_run: Path, tmp_path: Path) -> None:
    some = {name: TABLES[name] for name in ("images", "captions", "pairs")}
    shutil.copytree(finished_run, tmp_path / "run", symlinks=True)
    assert differences(finished_run, tmp_path / "run", some) == []
    part = next((tmp_path / "run/round-01/captions").glob("part-00000.parquet"))
    pq.write_table(pq.read_table(part).slice(1), part)
    assert differences(finished_run, tmp_path / "run", some) == ["captions"]
