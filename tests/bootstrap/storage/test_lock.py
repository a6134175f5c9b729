"""The lock of a run on a store: who has it, since when, and what becomes of a holder that is gone."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.errors import ConfigError, RunFailed
from blip_bootstrap.storage import lock
from blip_bootstrap.storage.lock import break_lock, locked
from blip_bootstrap.storage.remote import opened
from blip_bootstrap.stores.store import publish, store_of
from tests.bootstrap.storage.store_runs import URI, on_another_machine
from tests.support.moto_store import Bucket
from tests.support.stub_rounds import StubRounds


def test_a_second_run_is_told_who_works_on_it(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = opened(URI, make=True)
    with locked(root):
        assert json.loads(bucket["runs/mine/.lock"])["pid"] == os.getpid()
        monkeypatch.setattr(lock, "PATIENCE_S", 0.1)
        with pytest.raises(RunFailed, match=rf"another run is working on it \(.+, process {os.getpid()}"), locked(root):
            pass
        on_another_machine(monkeypatch, tmp_path / "other")
        other = opened(URI, make=True)
        told = rf"mine: another run is working on it \(.+@.+, process {os.getpid()}, since 20.*; wait for it or stop it"
        with pytest.raises(RunFailed, match=told), locked(other):
            pass
    assert bucket.names() == []


def holder(**changed: Any) -> bytes:
    return json.dumps({**lock._me(), "who": "ann@gpu-7", "pid": 7, "id": "x", **changed}).encode()


def test_a_stale_lock_is_told_and_can_be_broken(bucket: Bucket) -> None:
    bucket["runs/mine/.lock"] = holder(seen="2026-01-02T03:04:05+00:00", process=["another", "machine", "1"])
    root = opened(URI, make=True)
    told = r"locked by ann@gpu-7, process 7, since .*, not heard of for \d+ min; .*--break-lock"
    with pytest.raises(RunFailed, match=told), locked(root):
        pass
    assert "ann@gpu-7" in break_lock(root)
    with locked(root):
        pass
    assert "nobody" in break_lock(root)


def test_the_lock_of_a_process_of_this_machine_that_is_gone_is_taken(bucket: Bucket) -> None:
    bucket["runs/mine/.lock"] = holder(process=[*lock._process()[:2], "1"], pid=os.getpid())
    root = opened(URI, make=True)
    with locked(root):
        assert json.loads(bucket["runs/mine/.lock"])["id"] != "x"


def test_who_lost_the_lock_ends_before_a_record(bucket: Bucket, stub: StubRounds) -> None:
    root = opened(URI, make=True)
    with locked(root):
        bucket["runs/mine/.lock"] = holder()
        for name in ("part", "MANIFEST.json"):
            (root / name).write_text("x")
        publish(root / "part")  # work counts by its record alone
        with pytest.raises(RunFailed, match="the lock of this run was broken; now ann@gpu-7"):
            publish(root / "MANIFEST.json")
    assert bucket.names("runs/mine") == ["runs/mine/.lock", "runs/mine/part"]
    assert json.loads(bucket["runs/mine/.lock"])["id"] == "x"


def test_a_beat_renews_the_lock(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    root = opened(URI, make=True)
    with locked(root):
        first = lock._read(store_of(root) or pytest.fail("no store"))
        for _ in range(1000):
            if (now := lock._read(store_of(root) or pytest.fail("no store"))) and first and now[0] != first[0]:
                break
        else:
            pytest.fail("not renewed")
    assert bucket.names() == []


def test_without_permission_to_write_nothing_begins(
    bucket: Bucket, stub: StubRounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: lock.StoreLock, mode: Any) -> None:
        raise PermissionError("Server returned non-2xx status code: 403 Forbidden: <Error><Code>AccessDenied</Code>")

    monkeypatch.setattr(lock.StoreLock, "_put", refuse)
    told = f"root: {URI} cannot be written (the credentials do not allow it)"
    with pytest.raises(ConfigError, match=re.escape(told)):
        stub.run(0)
    assert (stub.made, bucket.names()) == ([], [])
