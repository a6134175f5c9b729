"""A run whose root is on an object store: made there, killed and gone on with, as on a disk."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blip_bootstrap.cli.app import app
from blip_bootstrap.errors import ConfigError, InputError, NothingLeft, RunFailed
from blip_bootstrap.query.views import connect
from blip_bootstrap.storage import store, store_client, store_lock
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.parts import borrow
from blip_bootstrap.storage.remote import local_folder, opened
from blip_bootstrap.storage.store import fetched, gone, is_there, publish, size_of, store_of
from blip_bootstrap.storage.store_client import Store
from blip_bootstrap.storage.store_lock import break_lock, locked
from blip_pipelines.cluster.sees_root import Roots, roots_now, see
from tests.support.growing_rounds import FIRST, MORE, GrowingRounds
from tests.support.moto_store import Bucket, environment, moto_server
from tests.support.stub_rounds import StubRounds

URI = "s3://bucket/runs/mine"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as found:
        yield found


@pytest.fixture
def bucket(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The bucket, empty, and an empty cache."""
    for name, value in environment(endpoint, tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    found = Bucket(endpoint)
    found.clear()
    return found


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubRounds:
    return stub_on(URI, tmp_path, monkeypatch)


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


# --- killed before each request that changes something


def run_and_die(arguments: tuple[str, str, str, int]) -> None:
    """In a child: run to round 1, and die before the change number `dies_at`; tells how many there were."""
    folder, endpoint, cache, dies_at = arguments
    os.environ.update(environment(endpoint, Path(cache)))
    changes = 0

    class Dying:
        """obstore's client, until the process dies of it."""

        def __init__(self, client: Any) -> None:
            self.get = client.get
            self._client = client

        def put(self, *given: Any, **named: Any) -> Any:
            return self._change("put", given, named)

        def delete(self, *given: Any, **named: Any) -> Any:
            return self._change("delete", given, named)

        def _change(self, name: str, given: Any, named: Any) -> Any:
            nonlocal changes
            changes += 1
            if changes > dies_at:
                os._exit(9)
            return getattr(self._client, name)(*given, **named)

    made = Store._make_writer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "_make_writer", lambda self: Dying(made(self)))
        stub_on(URI, Path(folder), patch).run(1)
    (Path(folder) / "changes").write_text(str(changes))


def in_child(*arguments: Any) -> int:
    """The exit code of `run_and_die` in a process that has no client yet, forked from one that has imported all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.bootstrap.storage.test_store_roots"])
    child = context.Process(target=run_and_die, args=((*map(str, arguments[:3]), arguments[3]),))
    child.start()
    child.join(120)
    assert child.exitcode is not None
    return child.exitcode


def kill_at(points: Iterator[int], bucket: Bucket, folder: Path, expected: dict[str, Any]) -> None:
    for point in points:
        bucket.clear()
        assert in_child(folder, bucket.endpoint, folder / f"killed-{point}", point) == 9
        assert in_child(folder, bucket.endpoint, folder / f"next-{point}", 10**9) == 0
        assert on_store(bucket) == expected, f"killed before change {point + 1}"
        shutil.rmtree(folder / f"killed-{point}")
        shutil.rmtree(folder / f"next-{point}")


@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.long)])
def test_killed_before_a_change_of_the_store_the_same_command_goes_on_from_an_empty_copy(
    bucket: Bucket, tmp_path: Path, step: int
) -> None:
    assert in_child(tmp_path, bucket.endpoint, tmp_path / "whole", 10**9) == 0
    changes, expected = int((tmp_path / "changes").read_text()), on_store(bucket)
    assert changes > 40
    kill_at(iter(range(0, changes, step)), bucket, tmp_path, expected)


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


# --- the lock


def test_a_second_run_is_told_who_works_on_it(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = opened(URI, make=True)
    with locked(root):
        assert json.loads(bucket["runs/mine/.lock"])["pid"] == os.getpid()
        monkeypatch.setattr(store_lock, "PATIENCE_S", 0.1)
        with pytest.raises(RunFailed, match=rf"another run is working on it \(.+, process {os.getpid()}"), locked(root):
            pass
        on_another_machine(monkeypatch, tmp_path / "other")
        other = opened(URI, make=True)
        told = rf"mine: another run is working on it \(.+@.+, process {os.getpid()}, since 20.*; wait for it or stop it"
        with pytest.raises(RunFailed, match=told), locked(other):
            pass
    assert bucket.names() == []


def holder(**changed: Any) -> bytes:
    return json.dumps({**store_lock._me(), "who": "ann@gpu-7", "pid": 7, "id": "x", **changed}).encode()


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
    bucket["runs/mine/.lock"] = holder(process=[*store_lock._process()[:2], "1"], pid=os.getpid())
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
    monkeypatch.setattr(store_lock, "BEAT_S", 0.01)
    root = opened(URI, make=True)
    with locked(root):
        first = store_lock._read(store_of(root) or pytest.fail("no store"))
        for _ in range(1000):
            if (now := store_lock._read(store_of(root) or pytest.fail("no store"))) and first and now[0] != first[0]:
                break
        else:
            pytest.fail("not renewed")
    assert bucket.names() == []


# --- single files


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


# --- what is wrong is one line


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
            monkeypatch.setattr(store_client, "RETRIES", {"max_retries": 1})
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


def test_without_permission_to_write_nothing_begins(
    bucket: Bucket, stub: StubRounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: store_lock.StoreLock, mode: Any) -> None:
        raise PermissionError("Server returned non-2xx status code: 403 Forbidden: <Error><Code>AccessDenied</Code>")

    monkeypatch.setattr(store_lock.StoreLock, "_put", refuse)
    told = f"root: {URI} cannot be written (the credentials do not allow it)"
    with pytest.raises(ConfigError, match=re.escape(told)):
        stub.run(0)
    assert (stub.made, bucket.names()) == ([], [])


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
