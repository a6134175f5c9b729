"""A run whose root is on an object store: made there and gone on with, as on a disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.errors import ConfigError, InputError, NothingLeft, RunFailed
from blip_bootstrap.query.views import connect
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.remote import local_folder, opened
from blip_bootstrap.stores import client
from blip_bootstrap.stores.client import Store
from blip_bootstrap.stores.store import gone, is_there, store_of
from blip_pipelines.cluster.sees_root import Roots, roots_now, see
from tests.bootstrap.storage.store_runs import URI, local_twin, on_another_machine, on_store
from tests.support.growing_rounds import FIRST, MORE, GrowingRounds
from tests.support.moto_store import Bucket
from tests.support.stub_rounds import StubRounds


def test_rounds_on_a_store_are_those_on_a_disk(bucket: Bucket, stub: StubRounds, tmp_path: Path) -> None:
    stub.run(2)
    assert stub.made.count("pretrain") == 3
    assert on_store(bucket) == local_twin(stub, tmp_path / "local", 2)
    assert not [key for key in bucket.names() if key.endswith((".lock", ".recipe.json", ".tmp"))]
    assert b"root: s3://bucket/runs/mine\n" in bucket["runs/mine/config.yaml"]


def test_the_same_command_again_makes_nothing_on_any_machine(
    bucket: Bucket, stub: StubRounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.run(1)
    before = on_store(bucket)
    stub.run(1)
    assert stub.made == []
    on_another_machine(monkeypatch, tmp_path / "other")
    stub.run(1)
    assert (stub.made, on_store(bucket)) == ([], before)
    assert (local_folder(URI) / "round-01/pairs/text").read_text().startswith("<select_pairs")


def test_what_another_machine_made_is_seen_and_what_it_deleted_is_gone(
    bucket: Bucket, stub: StubRounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.run(1)
    on_another_machine(monkeypatch, tmp_path / "other")
    stub.run(1, "select.itm_threshold=0.9")
    assert stub.made == ["select_pairs", "pretrain"]
    expected = on_store(bucket)
    pairs = opened(URI) / "round-01/pairs"
    folder = pairs.resolve()
    gone(folder)
    assert not [key for key in bucket.names() if folder.name in key]
    on_another_machine(monkeypatch, tmp_path / "cache")
    stub.run(1, "select.itm_threshold=0.9")
    assert stub.made == ["select_pairs"]
    assert on_store(bucket) == expected


def test_a_file_that_is_damaged_there_is_made_anew(bucket: Bucket, stub: StubRounds) -> None:
    stub.run(1)
    before = on_store(bucket)
    key = next(key for key in bucket.names() if "select_pairs" in key and key.endswith("/text"))
    bucket[key] = b"cut"
    stub.run(1)
    assert (stub.made, on_store(bucket)) == (["select_pairs"], before)


def test_a_list_that_grows_is_gone_on_with_by_part_on_another_machine(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = GrowingRounds(tmp_path, monkeypatch)
    grown.root = URI  # type: ignore[assignment]
    grown.run(1, grown.lists(FIRST))
    on_another_machine(monkeypatch, tmp_path / "second")
    grown.run(1, grown.lists([*FIRST, *MORE]))
    assert {part.partition("/")[2] for part in grown.parts} == {"part-00002", "part-00003"}
    on_another_machine(monkeypatch, tmp_path / "third")
    grown.run(1, grown.lists([*FIRST, *MORE]))
    assert (grown.made, grown.parts) == ([], [])
    with connect(URI) as connection:
        found = connection.execute("SELECT count(*), count(DISTINCT key) FROM images").fetchall()
        pairs = connection.execute("SELECT count(*) FROM pairs WHERE round = 1").fetchall()
    assert (found, pairs) == ([(10, 10)], [(20,)])
    borrowed = [one for one in opened(URI).glob("artifacts/download_images/*/part-*") if one.is_symlink()]
    part = next(one for one in borrowed if one.name == "part-00000.parquet")
    home = part.resolve().relative_to(opened(URI).resolve()).as_posix()
    bucket[f"runs/mine/{home}"] = b"cut"
    grown.run(1, grown.lists([*FIRST, *MORE]))
    assert grown.parts == ["images/part-00000"]
    assert bucket[f"runs/mine/{home}"] == b"cut"  # a borrowed part is made anew where it is borrowed
    before = bucket.names()
    grown.run(1, grown.lists([*FIRST, *MORE]))
    assert (grown.parts, bucket.names()) == ([], before)


def test_a_download_that_all_failed_is_tried_again_on_another_machine(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = GrowingRounds(tmp_path, monkeypatch)
    grown.root, grown.gone = URI, {*FIRST}  # type: ignore[assignment]
    with pytest.raises(NothingLeft):
        grown.run(0, grown.lists(FIRST))
    grown.gone.clear()
    on_another_machine(monkeypatch, tmp_path / "second")
    grown.run(0, grown.lists(FIRST))
    with connect(URI) as connection:
        assert connection.execute("SELECT status, count(*) FROM images GROUP BY ALL").fetchall() == [("success", 6)]


def test_gc_lists_and_deletes_on_the_store(bucket: Bucket, stub: StubRounds) -> None:
    stub.run(1)
    stub.run(1, "select.itm_threshold=0.9")
    listed = CliRunner().invoke(app, ["gc", "--root", URI])
    assert "2 that no round points to" in listed.stdout
    assert f"working copy: {local_folder(URI)}, " in listed.stdout
    stub.run(1)
    before = bucket.names()
    deleted = CliRunner().invoke(app, ["gc", "--root", URI, "--delete"])
    assert deleted.exit_code == 0, deleted.output
    gone_names = {*before} - {*bucket.names()}
    assert {name.split("/")[3] for name in gone_names} == {"select_pairs", "pretrain"}
    stub.run(1)
    assert stub.made == []


def test_a_worker_on_another_machine_is_given_the_copy(bucket: Bucket, stub: StubRounds, tmp_path: Path) -> None:
    """Within one process, in another folder, which a worker of Ray's would have under the same name."""
    stub.run(1)
    roots = roots_now()
    assert roots.copies[str(local_folder(URI).resolve())] == URI
    there = tmp_path / "node-2"
    see(Roots(copies={str(there): URI}, state="1"))
    assert (there / "round-01/pairs/text").read_text().startswith("<select_pairs")
    write_whole(there / "artifacts/part", b"1")
    assert bucket["runs/mine/artifacts/part"] == b"1"
    assert is_there(local_folder(URI) / "artifacts/part")
    assert store_of(there) is not None
    write_whole(local_folder(URI) / "artifacts/later", b"2")
    (there / "artifacts/half-written").write_bytes(b"by a worker that was killed")
    see(Roots(copies={str(there): URI}, state="1"))  # within a step a machine's copy stays as it is
    assert not (there / "artifacts/later").exists()
    see(Roots(copies={str(there): URI}, state="2"))
    assert (there / "artifacts/later").read_bytes() == b"2"
    assert not (there / "artifacts/half-written").exists()
    see(roots)  # where the driver works nothing is to be done


@pytest.mark.parametrize("root", ["s3:/b/run", "s3:b/run", "S3://b/run", "s3a://b/run", "gcs://b/r", "s3://"])
def test_a_mistyped_uri_is_one_line(root: str, stub: StubRounds) -> None:
    stub.root = root  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"^root: .*write (s3|gs)://"):
        stub.config()


def test_a_bucket_that_is_not_there_is_one_line(bucket: Bucket, stub: StubRounds) -> None:
    stub.root = "s3://no-such-bucket/run"  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"s3://no-such-bucket/run.* cannot be .*there is no such bucket"):
        stub.run(0)


def test_a_server_that_is_gone_in_the_middle_loses_nothing(
    bucket: Bucket, stub: StubRounds, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put, count = Store.put, 0

    def cut(self: Store, name: str, file: Path) -> None:
        nonlocal count
        count += 1
        if count == 20:
            monkeypatch.setattr(client, "RETRIES", {"max_retries": 1})
            self.settings["endpoint_override"] = "http://127.0.0.1:9"
            self._clients.clear()
        put(self, name, file)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", cut)
        with pytest.raises(RunFailed, match=rf"{URI}/.*cannot be read \(it does not answer\); the same co") as told:
            stub.run(1)
    assert len(str(told.value).splitlines()) == 1
    root = store_of(opened(URI, make=True))
    if root:
        root.settings.clear()
        root._clients.clear()
    stub.run(1)
    assert on_store(bucket) == local_twin(stub, tmp_path / "local", 1)
