"""Rows are forgotten in a run whose root is on an object store, from a machine that has none of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.stores.store import forget_stores
from tests.support.growing_rounds import FIRST, MORE, GrowingRounds
from tests.support.moto_store import Bucket, environment, moto_server

URI = "s3://bucket/runs/mine"


def holding(bucket: Bucket, text: str) -> list[str]:
    """The objects that hold a text, as bytes or in a cell."""
    found = []
    for name in bucket.names():
        data = bucket[name]
        if name.endswith(".parquet"):
            data += repr(pq.read_table(io.BytesIO(data)).to_pylist()).encode()
        found += [name] * (text.encode() in data)
    return found


def test_objects_hold_it_no_more_and_the_run_is_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server() as endpoint:
        bucket = Bucket(endpoint)
        bucket.clear()  # servers of one process share what they hold
        for name, value in environment(endpoint, tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        grown = GrowingRounds(tmp_path, monkeypatch)
        grown.root = URI  # type: ignore[assignment]
        grown.run(1, grown.lists(FIRST))
        grown.run(1, grown.lists(FIRST, MORE))  # borrows the parts of the first
        assert len(holding(bucket, "text of u4")) > 1
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
        forget_stores()
        result = CliRunner().invoke(app, ["forget", "--root", URI, "--url", "u4"])
        assert result.exit_code == 0, result.output
        assert "1 rows of the lists" in result.output
        assert holding(bucket, "text of u4") == holding(bucket, "text of 0000100001") == []
        images = [
            json.loads(bucket[one]) for one in bucket.names() if "download_images" in one and one.endswith(".json")
        ]
        assert [one["counts"]["withdrawn"] for one in images] == [1, 1]
        assert any("/withdrawals/" in one for one in bucket.names())
        assert "runs/mine/.withdrawing.json" not in bucket.names()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "third"))
        forget_stores()
        said = grown.run(1, grown.lists(FIRST, MORE))
        assert {"images: current", "round-01/captions: current", "round-01/pairs: current"} <= {*said}
        assert [*dict.fromkeys(grown.made)][:1] == ["pretrain"]
