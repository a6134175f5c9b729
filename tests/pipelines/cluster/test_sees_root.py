"""Nodes that cannot work on a run are found before any work, each in one line."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from blip_bootstrap.config import RayConfig
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.storage.lock import locked
from blip_bootstrap.storage.remote import LOCK
from blip_pipelines.cluster import sees_root
from blip_pipelines.cluster.sees_root import Roots, check_nodes, see


def lock_of(root: Path) -> Roots:
    with locked(root):
        return Roots({root: (root / LOCK).read_text()})


def test_a_root_that_is_seen_and_can_be_written_is_right(tmp_path: Path) -> None:
    see(lock_of(tmp_path / "run"))


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    roots = lock_of(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(RunFailed, match=r"run: node .* does not see this folder; mount the run's folder there .*s3://"):
        see(roots)


def test_another_folder_under_the_same_path(tmp_path: Path) -> None:
    roots = lock_of(tmp_path / "run")
    (tmp_path / "run" / LOCK).write_text("of another run")
    with pytest.raises(RunFailed, match=f"node {socket.gethostname()}.* sees another folder there"):
        see(roots)


def test_a_root_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = lock_of(tmp_path / "run")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RunFailed, match="cannot write there"):
        see(roots)


def test_a_store_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    uri = "s3://key:word@bucket/run?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    with pytest.raises(RunFailed, match=r"node .*s3://key:word@bucket/run|node .*cannot be read") as found:
        see(Roots(copies={str(tmp_path / "copy"): uri}, state="1"))
    assert len(str(found.value).splitlines()) == 1


def test_a_working_copy_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(RunFailed, match="set XDG_CACHE_HOME to a folder that every node can write"):
        see(Roots(copies={str(tmp_path / "copy"): "s3://bucket/run"}, state="1"))


@pytest.mark.parametrize("address", ["none", "local"])
def test_one_machine_is_not_asked(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sees_root, "connect", lambda config: pytest.fail("joined"))
    check_nodes(tmp_path, RayConfig(address=address))
