"""A run on an object store answers as the same run on disk, through pyarrow's S3 client and a loopback server."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from blip_bootstrap.audit.alarms import alarms
from blip_bootstrap.audit.audits import audit
from blip_bootstrap.audit.diff import diff
from blip_bootstrap.cli.app import app
from blip_bootstrap.errors import InputError
from blip_bootstrap.labels.sample import draw_sample
from blip_bootstrap.loop.adopt import adopt
from blip_bootstrap.query.json_tables import read_all_figures
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import connect
from blip_bootstrap.report.round_page import write_report
from blip_bootstrap.report.why import why
from blip_bootstrap.storage import run_folder
from blip_bootstrap.storage.remote import local_folder, opened, remote_of
from blip_bootstrap.storage.remote_files import attach
from blip_bootstrap.storage.run_folder import labels_path
from blip_bootstrap.stores import client
from blip_bootstrap.stores.client import Store
from blip_bootstrap.stores.store import LISTING
from tests.support.moto_store import environment
from tests.support.s3_server import serving

URI = "s3://bucket/runs/mine"
QUESTIONS = (
    "SELECT * EXCLUDE jpg FROM images ORDER BY key",
    "SELECT md5(jpg) AS picture FROM images ORDER BY key",
    "SELECT * FROM captions ORDER BY ALL",
    "SELECT * FROM pairs ORDER BY ALL",
    "SELECT * FROM metrics ORDER BY ALL",
    "SELECT * FROM runs ORDER BY ALL",
)


@pytest.fixture
def store(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder behind the bucket, with a run in it."""
    if not hasattr(pyarrow.fs, "S3FileSystem"):
        pytest.skip("this pyarrow was built without S3")
    bucket = tmp_path / "store" / "bucket"
    shutil.copytree(finished_run, bucket / "runs" / "mine")
    pq.write_table(pa.table({"secret": [1]}), bucket / "runs" / "other.parquet")
    with serving(bucket.parent) as (endpoint, _):
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", endpoint), ("XDG_CACHE_HOME", str(tmp_path / "cache")),
        ):  # fmt: skip
            monkeypatch.setenv(name, value)
        yield bucket / "runs" / "mine"


@pytest.mark.usefixtures("store")
def test_every_view_answers_as_on_disk(finished_run: Path) -> None:
    with connect(URI) as there, connect(finished_run) as here:
        for question in QUESTIONS:
            assert query(there, question).equals(query(here, question)), question


@pytest.mark.usefixtures("store")
def test_the_other_commands_answer_as_on_disk(finished_run: Path) -> None:
    root = opened(Path(URI))
    for mine, other in zip(audit(root, 1), audit(finished_run, 1), strict=True):
        # Threads add floats in any order.
        for there, here in zip(mine.table.to_pylist(), other.table.to_pylist(), strict=True):
            assert there == pytest.approx(here), mine.name
    assert alarms(root) == alarms(finished_run)
    assert [one.table for one in diff(root, 0, 1)] == [one.table for one in diff(finished_run, 0, 1)]
    assert why(root, "0000000010").texts.equals(why(finished_run, "0000000010").texts)
    assert "data:image/jpeg" in write_report(root, 1).read_text()
    assert draw_sample(root, 1, size=20) == labels_path(root, 1)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "question",
    [
        "FROM read_parquet('s3://bucket/runs/other.parquet')",
        "FROM read_parquet('s3://bucket/runs/mine/../other.parquet')",
        "FROM read_parquet('s3://bucket/runs/mine/images/../../other.parquet')",
        "COPY pairs TO 's3://bucket/runs/mine/new.parquet'",
        "FROM read_text('/etc/hostname')",
        "FROM glob('s3://bucket/*')",
    ],
)
def test_nothing_but_the_run_is_read(question: str) -> None:
    with connect(URI) as connection, pytest.raises(InputError):
        query(connection, question)


def test_the_store_is_only_read(store: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    with connect(URI) as connection:
        with pytest.raises(Exception, match="disabled by configuration"):
            connection.execute("COPY pairs TO 's3://bucket/runs/mine/new.parquet'")
        with pytest.raises(Exception, match="only Parquet files of the run"):
            connection.execute("COPY pairs TO 's3://bucket/runs/mine/round-01/pairs/part-00000.parquet'")
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_what_changes_there_is_seen_and_what_is_made_here_is_put_there(store: Path) -> None:
    root = opened(URI)
    assert run_folder.round_numbers(root) == [0, 1]
    assert not list(root.rglob("part-*"))
    labels = draw_sample(root, 1, size=4)
    shutil.copytree(store / "round-01", store / "round-02")
    (store / "round-00/metrics.json").unlink()
    assert opened(URI) == root == local_folder(URI)
    assert run_folder.round_numbers(root) == [0, 1, 2]
    assert [figures["round"] for figures in read_all_figures(root, [0, 1, 2])] == [1, 2]
    assert labels.read_bytes() == (store / "labels/round-01.parquet").read_bytes()
    remote = remote_of(root)
    assert remote is not None
    assert f"{URI}/round-02/pairs/part-00001.parquet" in remote.parquet_files(root / "round-02/pairs")


@pytest.mark.usefixtures("store")
def test_a_run_that_is_not_there_is_one_line() -> None:
    with pytest.raises(InputError, match="s3://bucket/runs/nothing: cannot be read"):
        opened("s3://bucket/runs/nothing")


def test_a_local_run_is_itself(finished_run: Path) -> None:
    assert opened(finished_run) == finished_run
    assert remote_of(finished_run) is None
    assert not (finished_run / LISTING).exists()


@pytest.mark.usefixtures("store")
def test_on_the_command_line() -> None:
    done = CliRunner().invoke(app, ["sql", "SELECT count(*) AS n FROM pairs", "--root", URI, "--format", "csv"])
    assert (done.exit_code, done.stdout) == (0, "n\n234\n")


@pytest.mark.parametrize("name", ["br[1]", "st*r", "sp ace", "pl+us=", "ünï#"])
def test_a_key_of_any_name_is_read_without_a_walk_over_the_bucket(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for run in (name, "other"):
        shutil.copytree(finished_run, tmp_path / "store" / "bucket" / run)
    with serving(tmp_path / "store") as (endpoint, asked):
        for variable, value in (
            ("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", endpoint), ("XDG_CACHE_HOME", str(tmp_path / "cache")),
        ):  # fmt: skip
            monkeypatch.setenv(variable, value)
        with connect(f"s3://bucket/{name}") as there, connect(finished_run) as here:
            for question in QUESTIONS[2:4]:
                assert query(there, question).equals(query(here, question))
    assert sum("list-type" in one for one in asked) == 1


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("key", "told"), [("per%cent", "write %25 for the sign itself"), ("q%3Fx", "a question mark")])
def test_keys_that_cannot_be_read_are_told(key: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        opened(Path(f"s3://bucket/{key}"))


def test_a_run_whose_links_were_left_out_is_read_by_its_records(store: Path, tmp_path: Path) -> None:
    """As some ways of syncing do; the records of the rounds name the artifacts."""
    for place, manifest in ((path.parent, json.loads(path.read_text())) for path in store.rglob("MANIFEST.json")):
        digest = hashlib.sha256(str(place).encode()).hexdigest()  # the fixture's are all the same
        (place / "MANIFEST.json").write_text(json.dumps(manifest | {"digest": digest}))
    shutil.copytree(store, tmp_path / "local")
    adopt(store)
    links = [path for path in store.rglob("*") if path.is_symlink()]
    for link in links:
        link.unlink()
    assert len(links) == 11
    with connect(URI) as there, connect(tmp_path / "local") as here:
        for question in QUESTIONS:
            assert query(there, question).equals(query(here, question)), question
    shutil.rmtree(store)
    shutil.copytree(tmp_path / "local", store)  # synced again, with folders
    with connect(URI) as there, connect(tmp_path / "local") as here:
        for question in QUESTIONS:
            assert query(there, question).equals(query(here, question)), question


def test_a_question_asks_of_each_file_a_few_times(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished_run, tmp_path / "store" / "bucket" / "mine")
    with serving(tmp_path / "store") as (endpoint, requests):
        for name, value in environment(endpoint, tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        with connect("s3://bucket/mine") as connection:
            query(connection, "SELECT round, source, sum(itm_score) FROM captions GROUP BY ALL")
        asked = Counter(one.partition("?")[0] for one in requests if "captions/part" in one)
    assert asked
    assert max(asked.values()) <= 6, asked  # two of them for the schema, and each reading a request of its own


def test_a_file_that_was_replaced_while_one_asks_is_told(store: Path) -> None:
    remote = remote_of(opened(URI))
    assert remote
    name = next(file for file in remote.files if "captions" in file)
    pq.write_table(pa.table({"other": list(range(10_000))}), store / name)
    with duckdb.connect() as connection:
        attach(connection, [remote])
        with pytest.raises(Exception, match="is another one since it was listed"):
            connection.execute(f"FROM read_parquet('{URI}/{name}')").fetchall()


@pytest.mark.parametrize("key", ["..", "runs/../mine", "runs/%2E%2E/mine"])
def test_a_key_with_dots_is_told_before_a_copy_is_made(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"write the key in full"):
        opened(f"s3://bucket/{key}")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("store")
def test_lines_hold_no_secret() -> None:
    with pytest.raises(InputError, match=r"^s3://bucket/nothing: cannot be read") as told:
        opened("s3://me:secret@bucket/nothing?region=us-east-1")
    assert "secret" not in str(told.value)
    assert "secret" not in Store("s3://me:secret@bucket/x", Path()).told


def test_google_without_credentials_is_told_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(pyarrow.fs, "GcsFileSystem"):
        pytest.skip("this pyarrow was built without GCS")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("GCE_METADATA_ROOT", "127.0.0.1:1")
    monkeypatch.setattr(client, "GOOGLE_RETRY_S", 1)
    with pytest.raises(InputError, match=r"gs://bucket/x: cannot be read \(no credentials were found"):
        opened("gs://bucket/x")
