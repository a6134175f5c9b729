from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.config import DownloadConfig, RayConfig, UrlList
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.manifest import describe_files
from blip_bootstrap.storage.notes import digest_in, digest_of_rows
from blip_bootstrap.storage.parquet import read_parquet
from blip_pipelines.fetch.courtesy import Courtesy, Shared
from blip_pipelines.ingest.download import download_images
from blip_pipelines.ingest.respect import count_hosts, shared_folder, tell_of_contact, tell_of_lost


def fetched(out: Path, urls: list[str], **settings: Any) -> Path:
    out.mkdir()
    path = out.with_suffix(".tsv")
    path.write_text("url\tcaption\n" + "".join(f"{url}\ttext {url}\n" for url in urls))
    known: dict[str, Any] = {"allow_private_addresses": True, "num_retries": 0, "rows_per_shard": 2}
    known |= {"urls": (UrlList(path=path, dataset="web"),)}
    download_images(out, path, config=DownloadConfig(**(known | settings)), ray=RayConfig(address="none"))
    return out


def test_a_host_of_which_every_row_fails_is_told_in_one_line(
    tmp_path: Path, rude_server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over all parts; its robots.txt was asked for once. A host with a picture is not named."""
    nobody = "http://127.0.0.1:9"
    before = rude_server.asked["/robots.txt"]
    fetched(
        tmp_path / "out", [f"{nobody}/1", rude_server.url("missing?lost"), f"{nobody}/2", rude_server.url("p1.jpg")]
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if "every row of" in line]
    assert lines == ["  download  every row of 1 host failed: 127.0.0.1:9 (2 rows: connection)"]
    assert rude_server.asked["/robots.txt"] == before + 1


def test_many_hosts_are_counted_and_some_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, shared = DownloadConfig(), Shared(tmp_path, 2)
    row = {"status": "failed_to_download", "error_class": "dns"}
    rows: list[dict[str, Any]] = [row | {"url": f"http://h{number % 5}.example/{number}"} for number in range(12)]
    rows += [{"url": "http://h0.example/x", "status": "success", "error_class": None}]
    rows += [{"url": "", "status": "rejected", "error_class": "blank_url"}]
    count_hosts(rows, Courtesy(config, shared=shared))
    tell_of_lost(config, shared)
    tell_of_lost(config, Shared())
    named = "h1.example (3 rows: dns), h2.example (2 rows: dns), h3.example (2 rows: dns), 1 more"
    assert capsys.readouterr().err == f"  download  every row of 4 hosts failed from this machine: {named}\n"


def test_a_run_without_a_contact_says_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = [UrlList(path=tmp_path / "web.tsv")]
    tell_of_contact(DownloadConfig(contact="me@lab.example"), lists)
    tell_of_contact(DownloadConfig(allow_private_addresses=True), lists)
    tell_of_contact(DownloadConfig(), [UrlList(path=tmp_path / "web.tsv", serve=tmp_path)])
    assert capsys.readouterr().err == ""
    tell_of_contact(DownloadConfig(), lists)
    assert capsys.readouterr().err.count("\n") == 1


def test_the_shared_folder_goes_with_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with shared_folder(tmp_path) as folder:
        assert folder
        Courtesy(DownloadConfig(), shared=Shared(folder))
        assert folder.is_dir()
    assert not folder.exists()

    def nowhere() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with shared_folder(tmp_path) as none:
        assert none is None


def test_times_change_no_digest_by_which_steps_know_a_part(tmp_path: Path, rude_server: Any) -> None:
    urls = [rude_server.url("picture1.jpg"), rude_server.url("missing?times")]
    one, other = (fetched(tmp_path / name, urls) for name in ("one", "other"))
    first, second = (next(f for f in describe_files(out) if f["name"] == "part-00000.parquet") for out in (one, other))
    assert first["sha256"] != second["sha256"]
    assert digest_in(first) == digest_in(second)
    rows = read_parquet(one / "part-00000.parquet")
    assert digest_of_rows(rows, IMAGES.dated) == digest_in(first)
    assert digest_of_rows(rows.drop_columns(["jpg"]), IMAGES.dated) != digest_in(first)
