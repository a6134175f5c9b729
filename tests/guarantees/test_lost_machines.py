"""A training by several workers loses machines of its cluster, or its driver, and comes to the losses of one worker.

Machines are raylets of this machine; a machine is killed as by a power cut.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from blip_training.train.checkpoint_files import CHECKPOINTS
from blip_training.watch.pace import FIGURES
from tests.support.cluster_runs import URI, begun, ended, rounds, said, until
from tests.support.moto_store import Bucket, empty_store
from tests.support.small_world import small_config
from tests.support.two_nodes import NOT_THE_PACKAGE, Cluster, Node, needs_namespaces

pytestmark = [needs_namespaces, pytest.mark.ray, pytest.mark.long]

STEPS = 60

START_S = 600.0
"""Three workers on a busy machine with two cores may take minutes to start."""


def training(config: dict[str, Any], **changes: object) -> dict[str, Any]:
    """A round 0 whose training is all that counts: many short steps, whose losses do not depend on the workers."""
    config["controls"] = {"arms": []}
    config["evaluate"] |= {"limit": 4}
    config["pretrain"] |= {"itm": {"uniform_share": 0.5, "negatives": "all_workers"}, **changes}
    config["pretrain"]["optimizer"] |= {
        "batch_size": 12, "steps": STEPS, "checkpoint_every_steps": 5, "log_every_steps": 1, "lr": 3e-4,
    }  # fmt: skip
    return config


def written(config: Mapping[str, Any], folder: Path, name: str, root: Path | str, **ray: object) -> Path:
    file = folder / f"{name}.yaml"
    alone = {"pretrain": {**config["pretrain"], "num_workers": 1, "min_workers": None}}
    whole = {**config, "root": str(root), "ray": ray} | (alone if ray["address"] == "none" else {})
    file.write_text(yaml.safe_dump(whole))
    return file


def losses(lines: str) -> list[dict[str, float]]:
    """What a metrics.jsonl says, without what the clock does."""
    found = [json.loads(line) for line in lines.splitlines()]
    return [{name: value for name, value in line.items() if name not in FIGURES} for line in found]


def check_same(one: list[dict[str, float]], other: list[dict[str, float]]) -> None:
    """The same batches in the same order: the same losses, but for the order of sums, which grows over the steps."""
    assert [line["step"] for line in one] == list(range(1, STEPS + 1))
    for mine, theirs in zip(one, other, strict=True):
        assert mine == pytest.approx(theirs, rel=0.05), mine["step"]


def log_of(root: Path) -> Path:
    return next(root.glob("artifacts/pretrain/*/metrics.jsonl"))


def num_lines(root: Path) -> int:
    files = list(root.glob("artifacts/pretrain/*/metrics.jsonl"))
    return len(files[0].read_text().splitlines()) if files else 0


def test_a_training_goes_on_with_fewer_workers_where_a_machine_is_lost(tmp_path: Path) -> None:
    config, server = small_config(tmp_path / "local", tmp_path / "world", num_web=60)
    config = training(config, num_workers=3, min_workers=2)
    with server, Cluster({}) as cluster:
        said(begun(rounds(written(config, tmp_path, "local", tmp_path / "local", address="none"), 0), {}))
        _, lost = cluster.add_all([2, 1])
        there = written(config, tmp_path, "there", tmp_path / "run", address=cluster.address, nodes_timeout_s=120)
        run = begun(rounds(there, 0), cluster.environment)
        with ended(run):
            until(lambda: num_lines(tmp_path / "run") > 10, START_S)
            lost.kill()
            told = said(run)
    assert f"pretrain: lost machine {lost.ip}; it goes on from step " in told
    assert "pretrain: waits for room for 3 workers, a CPU each: the cluster has 2 CPUs on 2 nodes" in told
    assert "pretrain: goes on with 2 workers of 3: there is room for no more" in told
    check_same(losses(log_of(tmp_path / "run").read_text()), losses(log_of(tmp_path / "local").read_text()))


def test_without_leave_to_be_fewer_it_ends_and_the_same_command_goes_on(tmp_path: Path) -> None:
    config, server = small_config(tmp_path / "local", tmp_path / "world", num_web=60)
    config = training(config, num_workers=2)
    with server, Cluster({}) as cluster:
        said(begun(rounds(written(config, tmp_path, "local", tmp_path / "local", address="none"), 0), {}))
        cluster.add(1)
        there = written(config, tmp_path, "there", tmp_path / "run", address=cluster.address, nodes_timeout_s=30)
        run = begun(rounds(there, 0), cluster.environment)
        with ended(run):
            told, _ = run.communicate(timeout=START_S)
        assert run.returncode == 1
        last = told.strip().splitlines()[-1]
        assert "pretrain: no room for 2 workers, a CPU each in " in last
        assert (
            "the cluster has 1 CPUs on 2 nodes; add machines, or set num_workers or min_workers lower, and run" in last
        )
        cluster.add(1)
        said(begun(rounds(there, 0), cluster.environment))
    check_same(losses(log_of(tmp_path / "run").read_text()), losses(log_of(tmp_path / "local").read_text()))


class InStore:
    """A run's training as its bucket has it."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    def step(self) -> int:
        """The step of the newest checkpoint."""
        names = self.bucket.names("runs/mine/artifacts/pretrain")
        return max((int(name[-11:-3]) for name in names if f"/{CHECKPOINTS}/" in name), default=0)

    def log(self) -> str:
        names = self.bucket.names("runs/mine/artifacts/pretrain")
        return self.bucket[next(name for name in names if name.endswith("metrics.jsonl"))].decode()


def has_rank_0(node: Node, folder: Path) -> bool:
    """Whether the node's working copy has a log, which the first rank alone writes."""
    return any(node.view(folder).glob("cache/blip-bootstrap/*/mine/artifacts/pretrain/*/metrics.jsonl"))


def test_the_machine_of_rank_0_and_the_driver_are_lost_without_a_disk_in_common(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the machine of rank 0 dies, for which another comes; then the driver; the same command goes on."""
    config, server = small_config(tmp_path / "local", tmp_path / "world", num_web=60)
    config = training(config, num_workers=2)
    hidden = [tmp_path, *NOT_THE_PACKAGE]
    with empty_store(tmp_path / "cache", monkeypatch) as (variables, bucket):
        store = InStore(bucket)
        with server, Cluster(variables) as cluster:
            said(begun(rounds(written(config, tmp_path, "local", tmp_path / "local", address="none"), 0), {}))
            nodes = cluster.add_all([1, 1], hidden)
            there = rounds(written(config, tmp_path, "there", URI, address=cluster.address), 0)
            run = begun(there, cluster.environment)
            with ended(run):
                until(lambda: store.step() >= 10, START_S)
                (first,) = [node for node in nodes if has_rank_0(node, tmp_path)]
                first.kill()
                at = store.step()
                cluster.add(1, hidden)
                until(lambda: store.step() > at + 5, START_S)
                run.kill()
            at = store.step()
            assert at < STEPS, "the driver is to die amid the training"
            told = said(begun(there, cluster.environment))
        assert "round-00/model: done" in told
        check_same(losses(store.log()), losses(log_of(tmp_path / "local").read_text()))
