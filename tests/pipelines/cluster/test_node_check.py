"""A node with other versions or models than the driver's is told in one line; here this process is the node."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from blip_bootstrap.errors import RunFailed
from blip_pipelines.cluster import node_check
from blip_pipelines.cluster.node_check import check_models, check_versions, models_here, versions_here
from blip_pipelines.cluster.sees_root import Roots, roots_now, see
from blip_training.runtime import commits

NODE = f"node {socket.gethostname()}"


def test_the_same_versions_are_right() -> None:
    found = versions_here()
    assert {"Python", "blip-bootstrap", "torch", "transformers", "ray", "pyarrow", "duckdb"} <= found.keys()
    check_versions(found)
    see(roots_now())


@pytest.mark.parametrize("name", ["torch", "ray", "duckdb", "blip-bootstrap"])
def test_another_version(name: str) -> None:
    here = versions_here()
    with pytest.raises(RunFailed) as found:
        see(Roots(versions=here | {name: "0.0.1"}))
    told = re.sub(r" \([0-9.]+\) has ", " has ", str(found.value))  # where another test has connected to Ray
    assert told.startswith(f"{NODE} has {name} {here[name]} (the driver: 0.0.1); ")
    assert f"`pip install {name}==0.0.1`" in str(found.value)


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    drivers = versions_here()
    monkeypatch.setattr(node_check, "PACKAGES", ("torch", "a-package-of-nobody"))
    with pytest.raises(RunFailed, match=r"has a-package-of-nobody none \(the driver: 1.0\)"):
        check_versions({"torch": drivers["torch"], "a-package-of-nobody": "1.0"})


def test_builds_for_gpus_are_the_same_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_check, "version", lambda name: "2.9.1+cu128")
    assert versions_here()["torch"] == "2.9.1"


def test_a_model_with_the_same_bytes_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    found = models_here(tmp_path, ["model", "nowhere", "someone/unpinned"])
    assert list(found) == [str(tmp_path / "model")]
    check_models(found, {})


def test_another_model_or_none(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.write_bytes(b"weights")
    found = models_here(tmp_path, [str(model)])
    model.write_bytes(b"Weights")
    with pytest.raises(RunFailed, match=f"{model}: {NODE}.* has another model there than the driver"):
        check_models(found, {})
    model.unlink()
    with pytest.raises(RunFailed, match=f"{model}: {NODE}.* does not see this model; put it there"):
        check_models(found, {})


def test_a_package_or_a_hub_model_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RunFailed, match=rf"{NODE}.*: package of_nobody is not installed; install it"):
        check_models(models_here(tmp_path, ["package:of_nobody"]), {})
    with pytest.raises(RunFailed, match=rf"{NODE}.*: some/model: at commit 0123456789ab, with which") as it:
        check_models({"some/model": "0123456789abcdef"}, {"some/model": "0123456789abcdef"})
    assert len(str(it.value).splitlines()) == 1
    assert commits.pinned() == {"some/model": "0123456789abcdef"}


def test_a_store_brings_models_to_its_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").write_bytes(b"weights")
    monkeypatch.setattr(node_check, "store_of", lambda folder: object())
    assert models_here(tmp_path, [str(tmp_path / "model"), "package:of_somebody"]) == {"package:of_somebody": ""}
