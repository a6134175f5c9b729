from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blip_bootstrap.config import DownloadConfig, RayConfig, UrlList
from blip_bootstrap.errors import AccountingError, InputError, RunFailed
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, rows_to_table, write_parquet
from blip_pipelines.cluster.tally import Tally
from blip_pipelines.fetch import local_server
from blip_pipelines.fetch.local_server import serve_folder
from blip_pipelines.ingest.download import ShardDownload, download_images
from blip_pipelines.ingest.fetched_rows import fetch_rows
from blip_pipelines.ingest.pictures import WebStore
from blip_pipelines.ingest.shard_parts import Shard
from blip_pipelines.lists.plan import plan_parts

NAMES = {
    "picture1.jpg": (None, "success"),
    "picture2.png": (None, "success"),
    "busy_once?download": (None, "success"),
    "missing": ("http_4xx", "failed_to_download"),
    "busy_always": ("http_5xx", "failed_to_download"),
    "slow_body": ("timeout", "failed_to_download"),
    "html": ("not_an_image", "failed_to_resize"),
    "cut_file": ("truncated_image", "failed_to_resize"),
    "bomb": ("too_many_pixels", "failed_to_resize"),
    "narrow": ("aspect_ratio", "failed_to_resize"),
    "small": ("too_small", "failed_to_resize"),
}


def write_list(path: Path, urls: list[str]) -> Path:
    path.write_text("url\tcaption\n" + "".join(f"{url}\ttext {i}\n" for i, url in enumerate(urls)))
    return path


def settings(*lists: UrlList, **more: Any) -> DownloadConfig:
    return DownloadConfig(urls=lists, image_size=32, timeout_s=3, min_image_size=10, max_pixels=10_000_000, **more)


def rows_of(out: Path) -> list[dict[str, Any]]:
    tables = [read_parquet(path) for path in parquet_files(out)]
    assert all(table.schema.equals(IMAGES.schema) for table in tables)
    return [row for table in tables for row in table.to_pylist()]


@pytest.mark.ray
def test_every_row_of_the_lists_is_one_row_with_its_outcome(
    tmp_path: Path, rude_server: Any, ray_config: RayConfig
) -> None:
    urls = [rude_server.url(name) for name in NAMES]
    path = write_list(tmp_path / "web.tsv", [*urls, "", "file:///etc/hostname"])
    private = f"http://{rude_server.host}"
    config = settings(UrlList(path=path), rows_per_shard=5, allow_private_addresses=True)
    counts = download_images(tmp_path, path, config=config, ray=ray_config)
    rows = rows_of(tmp_path)
    assert [row["url"] for row in rows] == [*urls, "", "file:///etc/hostname"]
    found = {row["url"].removeprefix(private + "/"): (row["error_class"], row["status"]) for row in rows[: len(NAMES)]}
    assert found == NAMES
    assert [(row["error_class"], row["status"]) for row in rows[-2:]] == [
        ("blank_url", "rejected"),
        ("unsupported_scheme", "failed_to_download"),
    ]
    assert (counts["rows"], counts["success"], counts["rejected"]) == (13, 3, 1)
    parts = [f"part-0000{number}{end}" for number in range(3) for end in (".parquet", "_stats.json")]
    assert [p.name for p in sorted(tmp_path.iterdir()) if not p.name.startswith(".")] == [
        "known", *parts, "rows", "web.tsv",
    ]  # fmt: skip
    assert [path.name for path in parquet_files(tmp_path / "rows")] == [path.name for path in parquet_files(tmp_path)]


def test_rows_of_a_shard(rude_server: Any) -> None:
    """Without Ray: order, stored bytes, and rows that were rejected before."""
    rows = [{"key": str(i), "status": None, "url": rude_server.url(f"picture{i}.jpg")} for i in range(30)]
    rows[3] |= {"status": "rejected", "error_class": "duplicate_row"}
    config = settings(num_threads=4)
    with WebStore(config) as store:
        done = list(fetch_rows(rows, config, frozenset({rude_server.host}), store))
    assert [row["key"] for row in done] == [row["key"] for row in rows]
    assert [row["status"] for row in done] == ["rejected" if i == 3 else "success" for i in range(30)]
    image = Image.open(io.BytesIO(done[0]["jpg"]))
    assert image.size == (done[0]["width"], done[0]["height"]) == (38, 32)
    assert (done[0]["original_width"], done[0]["original_height"]) == (48, 40)
    assert len({row["sha256"] for row in done if row["sha256"]}) == 29
    assert set(done[3]) == set(done[0]) == set(IMAGES.schema.names)


def test_a_slow_page_keeps_no_other_from_being_fetched(rude_server: Any) -> None:
    names = ["after?picture7029.jpg", *(f"picture{i}.jpg" for i in range(7000, 7030))]
    rows = [{"key": str(i), "status": None, "url": rude_server.url(name)} for i, name in enumerate(names)]
    config = settings(num_threads=2).model_copy(update={"timeout_s": 20.0})
    with WebStore(config) as store:
        done = list(fetch_rows(rows, config, frozenset({rude_server.host}), store))
    assert [(row["key"], row["status"]) for row in done] == [(row["key"], "success") for row in rows]


def test_hostile_pictures_are_rows(tmp_path: Path) -> None:
    """One of 200 scans, one that takes long, one of too many pixels; those between and after them are stored."""
    good = Image.effect_noise((64, 48), 60).convert("RGB")
    good.save(tmp_path / "good.jpg")
    good.save(stream := io.BytesIO(), "JPEG", progressive=True)
    body = stream.getvalue()
    (tmp_path / "scans.jpg").write_bytes(body[:-2] + body[body.rindex(b"\xff\xda") : -2] * 200 + b"\xff\xd9")
    Image.new("RGBA", (5_000, 5_000)).save(tmp_path / "long.png", compress_level=1)
    Image.new("1", (5_001, 5_000)).save(tmp_path / "large.png")
    names = ["good.jpg", "scans.jpg", "long.png", "good.jpg", "large.png", "good.jpg"]
    config = DownloadConfig(decode_timeout_s=0.3)
    with serve_folder(tmp_path, 0) as host, WebStore(config) as store:
        rows = [{"key": str(i), "status": None, "url": f"http://{host}/{name}"} for i, name in enumerate(names)]
        done = list(fetch_rows(rows, config, frozenset({host}), store))
    classes = [None, "too_many_scans", "decode_timeout", None, "too_many_pixels", None]
    assert [row["error_class"] for row in done] == classes
    assert [row["status"] for row in done] == ["failed_to_resize" if c else "success" for c in classes]


@pytest.mark.ray
def test_served_folder(tmp_path: Path, ray_config: RayConfig) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (64, 48), "red").save(photos / "a photo.jpg")
    path = tmp_path / "web.tsv"
    path.write_text("file\ttext\na photo.jpg\tred\n../web.tsv\tx\nnone.jpg\ty\n")
    urls = UrlList(path=path, url_column="file", caption_column="text", serve=photos, serve_port=free_port())
    counts = download_images(out := tmp_path / "out", path, config=settings(urls), ray=ray_config)
    assert counts == {"rows": 3, "success": 1, "failed_to_download": 2, "http_4xx": 2}
    assert rows_of(out)[0]["url"] == f"http://127.0.0.1:{urls.serve_port}/a%20photo.jpg"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_port_that_is_taken_and_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with serve_folder(tmp_path, 0) as host:
        port = int(host.partition(":")[2])
        with pytest.raises(RunFailed, match=rf"port {port} .* set serve_port"), serve_folder(tmp_path, port):
            pass
    with pytest.raises(InputError, match="no such folder"), serve_folder(tmp_path / "none", 0):
        pass


def test_a_port_that_another_program_has_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_server, "CLOSED_TRIES", 3)
    for listens in (True, False):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            if listens:
                other.listen()
                answering = threading.Thread(target=_answer_as, args=(other, "nginx"), daemon=True)
                answering.start()
            port = other.getsockname()[1]
            with pytest.raises(RunFailed, match=rf"port {port} .* set serve_port"), serve_folder(tmp_path, port):
                pass


def _answer_as(listening: socket.socket, name: str) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(f"HTTP/1.0 200 OK\r\nServer: {name}\r\n\r\n".encode())


SERVING = """
import sys
from pathlib import Path
from blip_pipelines.fetch import local_server
from blip_pipelines.fetch.local_server import serve_folder

with serve_folder(Path(sys.argv[1]), int(sys.argv[2])):
    print("serving", flush=True)
    sys.stdin.read()
"""


def test_a_port_where_another_run_serves_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seeds of an experiment that run side by side have one configuration, and so one port."""
    command = [sys.executable, "-c", SERVING, str(tmp_path), str(port := free_port())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"serving\n"
        closing = threading.Timer(1.0, other.stdin.close)
        closing.start()
        with serve_folder(tmp_path, port) as host:
            assert other.wait(10) == 0  # it had ended, or was about to: its port is ours
            assert host == f"127.0.0.1:{port}"
        closing.join()
    assert f"port {port}: another run serves its pictures there" in capsys.readouterr().err


def test_lists_without_rows(tmp_path: Path) -> None:
    config = settings(UrlList(path=write_list(tmp_path / "web.tsv", [])))
    with pytest.raises(InputError, match="no rows"):
        download_images(tmp_path, tmp_path / "web.tsv", config=config, ray=RayConfig())
    with pytest.raises(InputError, match="no URL list is given"):
        download_images(tmp_path, config=settings(), ray=RayConfig())


KILLED = """
import sys
from pathlib import Path
from blip_bootstrap.config import DownloadConfig, RayConfig
from blip_pipelines.ingest.download import download_images
config = DownloadConfig.model_validate_json(sys.argv[1])
download_images(Path(sys.argv[2]), config.urls[0].path, config=config, ray=RayConfig(object_store_bytes=100_000_000))
"""


@pytest.mark.ray
def test_a_killed_download_goes_on(tmp_path: Path, rude_server: Any, ray_config: RayConfig) -> None:
    """kill -9 after the first part; the same call again makes the rest, and fetches nothing of it twice."""
    urls = [rude_server.url(f"picture{i}.jpg?killed") for i in range(40)]
    urls += [rude_server.url(f"slow_body?killed{i}") for i in range(20)]
    path = write_list(tmp_path / "web.tsv", urls)
    config = settings(UrlList(path=path), rows_per_shard=20, allow_private_addresses=True, num_retries=0, num_threads=2)
    out = tmp_path / "out"
    out.mkdir()
    patient = config.model_copy(update={"timeout_s": 30.0})  # on a busy machine too no picture is given up
    child = subprocess.Popen([sys.executable, "-W", "ignore", "-c", KILLED, patient.model_dump_json(), str(out)])
    wait_for(lambda: len(parquet_files(out)) == 2, child)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = {part.name: part.stat().st_mtime_ns for part in parquet_files(out)}
    assert len(kept) == 2
    quick = config.model_copy(update={"timeout_s": 0.5, "num_threads": 20})
    counts = download_images(out, path, config=quick, ray=ray_config)
    assert counts == {"rows": 60, "success": 40, "failed_to_download": 20, "timeout": 20}
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    assert all(rude_server.asked[f"/picture{i}.jpg?killed"] == 1 for i in range(40))
    assert [row["url"] for row in rows_of(out)] == urls


def wait_for(condition: Any, child: subprocess.Popen[bytes], timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end, "the run made nothing to be killed after"
        time.sleep(0.02)


@pytest.mark.ray
def test_a_part_with_too_few_rows_is_refused(tmp_path: Path, rude_server: Any, ray_config: RayConfig) -> None:
    path = write_list(tmp_path / "web.tsv", [rude_server.url("picture1.jpg"), rude_server.url("slow_body?refused")])
    config = settings(UrlList(path=path), allow_private_addresses=True)
    plan = plan_parts(out := tmp_path / "out", config.urls, config, (), None)
    rows = [dict.fromkeys(IMAGES.schema.names) | row for row in read_parquet(plan.shards[0]).to_pylist()[:1]]
    write_parquet(out / plan.shards[0].name, rows_to_table(rows, IMAGES), IMAGES)
    with pytest.raises(AccountingError, match="1 rows for 2 of the list; delete it and run again"):
        download_images(out, path, config=config, ray=ray_config)


def test_importing_the_steps_is_cheap() -> None:
    code = (
        "import sys, blip_pipelines.ingest.download, blip_pipelines.caption.step, blip_pipelines.ingest.annotated;"
        "print(sorted({'ray', 'torch', 'transformers', 'img2dataset', 'cv2'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_finished_task_that_ray_runs_again_fetches_nothing(tmp_path: Path) -> None:
    """Its answer was lost with a node; the shard could not even be read."""
    part = tmp_path / "part-00000.parquet"
    part.write_bytes(b"made")
    shard = Shard(str(tmp_path / "none"), str(part))
    assert list(ShardDownload(settings(), frozenset(), tally=Tally())(shard)) == [shard]
    assert part.read_bytes() == b"made"
