"""Hub models are loaded at one commit, and fetched once for each machine; the hub is a folder and a stand-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi, constants

from blip_bootstrap.errors import CheckpointError
from blip_bootstrap.loop.commits import COMMITS, note_commits, recall_commits
from blip_training.runtime import hub
from blip_training.runtime.commits import VARIABLE, pin, pinned

NAME, OLD, NEW = "someone/model", "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache with two commits of a model, of which its name means the newer one."""
    folder = tmp_path / "hub" / "models--someone--model"
    for commit in (OLD, NEW):
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / "config.json").write_text(json.dumps({"commit": commit}))
        (folder / "snapshots" / commit / "model.safetensors").write_bytes(commit.encode())
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(NEW)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


def commit_of(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text())["commit"])


def test_offline_it_is_the_commit_that_the_cache_names_and_stays_it(cache: Path) -> None:
    assert commit_of(hub.fetch(NAME)) == NEW
    assert pinned() == {NAME: NEW}
    (cache / "refs" / "main").write_text(OLD)
    assert commit_of(hub.fetch(NAME)) == NEW


def test_a_pinned_commit_is_loaded_here_and_in_children(cache: Path) -> None:
    pin({NAME: OLD})
    assert commit_of(hub.fetch(NAME)) == OLD
    code = "from blip_training.runtime.hub import fetch; print(fetch('someone/model').name)"
    environment = os.environ | {"HF_HUB_CACHE": str(cache.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == OLD


def test_a_commit_that_is_not_there_is_one_line_that_names_it(cache: Path) -> None:
    pin({NAME: "c" * 40})
    with pytest.raises(CheckpointError, match="someone/model: at commit cccccccccccc, with which this run began"):
        hub.fetch(NAME)


def test_a_model_that_nobody_has_pins_nothing(cache: Path) -> None:
    with pytest.raises(CheckpointError, match="no/body: neither a file, a folder nor a model the hub gives"):
        hub.fetch("no/body")
    assert VARIABLE not in os.environ


class Online:
    """A hub that answers: how often it was asked what, and how many fetch at a time."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.asked, self.fetches, self.at_once = cache, 0, 0, [0]
        self._lock = threading.Lock()

    def model_info(self, name: str, timeout: float) -> Any:
        self.asked += 1
        return SimpleNamespace(sha=OLD)

    def snapshot_download(self, name: str, revision: str, local_files_only: bool = False, **_: Any) -> str:
        if not local_files_only:
            self.fetches += 1
            self.at_once.append(self.at_once[-1] + 1)
            time.sleep(0.05)
            self.at_once.append(self.at_once[-1] - 1)
        return str(self.cache / "snapshots" / revision)


@pytest.fixture
def online(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Online:
    found = Online(cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "HfApi", lambda: found)
    monkeypatch.setattr(hub, "snapshot_download", found.snapshot_download)
    return found


def test_the_hub_is_asked_once_for_the_commit_and_one_worker_fetches(online: Online) -> None:
    assert commit_of(hub.fetch(NAME)) == OLD
    (online.cache.parent / ".locks" / "blip-bootstrap" / f"someone--model--{OLD}.whole").unlink()
    others = [threading.Thread(target=hub.fetch, args=(NAME,)) for _ in range(6)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert (online.asked, online.fetches, max(online.at_once)) == (1, 1 + 1, 1)


def test_a_hub_that_does_not_answer_leaves_the_cache(online: Online, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = HfApi(endpoint="http://127.0.0.1:9")  # nothing listens at this port
    monkeypatch.setattr(hub, "HfApi", lambda: nobody)
    assert commit_of(hub.fetch(NAME)) == NEW


def test_a_run_keeps_the_commits_that_it_began_with(tmp_path: Path) -> None:
    pin({NAME: OLD})
    note_commits(tmp_path)
    assert json.loads((tmp_path / COMMITS).read_text()) == {NAME: OLD}
    os.environ.pop(VARIABLE)
    pin({NAME: NEW, "another/one": NEW})
    note_commits(tmp_path)
    assert json.loads((tmp_path / COMMITS).read_text()) == {NAME: OLD, "another/one": NEW} == pinned()
    os.environ.pop(VARIABLE)
    recall_commits(tmp_path)
    assert pinned()[NAME] == OLD


def test_a_run_without_hub_models_has_no_record(tmp_path: Path) -> None:
    note_commits(tmp_path)
    assert not list(tmp_path.iterdir())
