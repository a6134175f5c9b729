"""Single files of a run on a store: found, fetched, borrowed, deleted and compared with their digests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.query.views import connect
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.parts import borrow
from blip_bootstrap.storage.remote import opened
from blip_bootstrap.stores.client import Store
from blip_bootstrap.stores.store import fetched, gone, is_there, size_of
from tests.bootstrap.storage.store_runs import URI, on_another_machine
from tests.support.moto_store import Bucket
from tests.support.stub_rounds import StubRounds


def test_files_are_found_here_or_there(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket["runs/mine/artifacts/step/1/model.safetensors"] = b"1" * (2 << 20)
    bucket["runs/mine/artifacts/step/1/deep/in/it"] = b"2"
    bucket["runs/mine/artifacts/step/12/other"] = b"3"
    folder = opened(URI) / "artifacts/step/1"
    assert not (folder / "model.safetensors").exists()
    assert (is_there(folder / "model.safetensors"), size_of(folder / "model.safetensors")) == (True, 2 << 20)
    assert not is_there(folder / "none")
    assert fetched(folder) == folder
    assert (folder / "model.safetensors").read_bytes() == b"1" * (2 << 20)
    assert (folder / "deep/in/it").read_bytes() == b"2"
    gone(folder)
    assert bucket.names() == ["runs/mine/artifacts/step/12/other"]
    assert not folder.exists()
    assert fetched(tmp_path) == tmp_path
    gone(tmp_path / "nothing")


def test_a_part_that_is_borrowed_is_read_where_it_lies(bucket: Bucket) -> None:
    home = "artifacts/download_images/1/part-00000.parquet"
    bucket[f"runs/mine/{home}"] = b"x" * 8
    entry = {"name": "part-00000.parquet", "at": home, "bytes": 8}
    bucket["runs/mine/artifacts/download_images/2/MANIFEST.json"] = json.dumps({"files": [entry]}).encode()
    part = opened(URI) / "artifacts/download_images/2/part-00000.parquet"
    assert part.is_symlink()
    assert not part.exists()
    assert size_of(part) == 8
    fetched(part)
    assert part.read_bytes() == b"x" * 8
    gone(part)
    assert f"runs/mine/{home}" in bucket.names()
    assert opened(URI).joinpath(home).read_bytes() == b"x" * 8


def test_parts_that_something_half_made_borrows_are_known_on_another_machine(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket["runs/mine/artifacts/step/1/part-00000.parquet"] = b"1"
    bucket["runs/mine/artifacts/step/1/part-00001.parquet"] = b"2"
    folder = opened(URI) / "artifacts/step/2"
    for at in (0, 1):
        write_whole(folder.parent / "1" / f"part-0000{at}.parquet", b"1")
    write_whole(make(folder) / ".recipe.json", b"{}")
    for at in (0, 1):
        borrow(folder, folder.parent / "1" / f"part-0000{at}.parquet")
    gone(folder / "part-00001.parquet")
    on_another_machine(monkeypatch, tmp_path / "other")
    there = opened(URI) / "artifacts/step/2"
    assert [one.name for one in there.glob("part-*")] == ["part-00000.parquet"]
    assert (fetched(there) / "part-00000.parquet").read_bytes() == b"1"
    assert "runs/mine/artifacts/step/1/part-00001.parquet" in bucket.names()


def make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_a_file_that_a_run_deletes_while_another_command_reads_is_none(
    bucket: Bucket, stub: StubRounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.run(0)
    listing = Store.listing

    def older(self: Store, below: str = "", missing_ok: bool = True) -> dict[str, tuple[int, int]]:
        return {
            **listing(self, below, missing_ok),
            "artifacts/pretrain/x/.recipe.json": (9, 9),
            "metrics.jsonl": (9, 9),
        }

    monkeypatch.setattr(Store, "listing", older)
    on_another_machine(monkeypatch, tmp_path / "other")
    with connect(opened(URI)) as connection:
        assert connection.execute("SELECT count(*) FROM rounds").fetchone()


def test_verify_reads_what_lies_on_the_store(
    bucket: Bucket, stub: StubRounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.run(1)
    on_another_machine(monkeypatch, tmp_path / "other")
    assert verified() == "0 files damaged or missing\n"
    damaged, lacking = (next(key for key in bucket.names() if f"/{step}/" in key and key.endswith("/text"))
                        for step in ("pretrain", "select_pairs"))  # fmt: skip
    bucket[damaged] = bytes([bucket[damaged][0] ^ 1]) + bucket[damaged][1:]
    bucket.delete(lacking)
    said = verified()
    assert "2 files damaged or missing" in said
    assert f"s3://bucket/{damaged}: damaged or missing\n" in said
    assert f"s3://bucket/{lacking}: damaged or missing\n" in said


def verified() -> str:
    return CliRunner().invoke(app, ["artifacts", "--verify", "--root", URI]).stdout
