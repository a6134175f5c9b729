"""Runs whose root is on an object store, and what they have in common with runs on a disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.stores import store
from tests.support.moto_store import Bucket
from tests.support.stub_rounds import StubRounds

URI = "s3://bucket/runs/mine"


def stub_on(root: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> StubRounds:
    found = StubRounds(folder, monkeypatch)
    found.root = root  # type: ignore[assignment]
    return found


def on_another_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Go on with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    store.forget_stores()


def what_counts(files: dict[str, bytes]) -> dict[str, Any]:
    """What two runs that made the same have in common: all but times, and pages, which the stub does not write."""
    found: dict[str, Any] = {}
    for name, content in files.items():
        if name.endswith((".html", "metrics.json", ".lock", "config.yaml", ".remote.json", ".at_work")):
            continue
        text = content.decode()
        timed = name.endswith("MANIFEST.json")
        found[name] = {**json.loads(text), "made": 0, "seconds": 0, "checksum": 0} if timed else text
    return found


def on_disk(root: Path) -> dict[str, Any]:
    files = [one for one in root.rglob("*") if one.is_file() and not any(p.is_symlink() for p in (one, *one.parents))]
    return what_counts({one.relative_to(root).as_posix(): one.read_bytes() for one in files})


def on_store(bucket: Bucket, uri: str = URI) -> dict[str, Any]:
    prefix = uri.removeprefix("s3://bucket/") + "/"
    return what_counts({key.removeprefix(prefix): bucket[key] for key in bucket.names(prefix)})


def local_twin(stub: StubRounds, folder: Path, number: int, *settings: str) -> dict[str, Any]:
    """What a run on a disk makes of the same lists."""
    root, stub.root = stub.root, folder
    stub.run(number, *settings)
    stub.root = root
    return on_disk(folder)
