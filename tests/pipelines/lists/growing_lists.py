"""A web that counts what is fetched, and the downloads of lists that change, each made out of those before."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blip_bootstrap.config import DownloadConfig, RayConfig, UrlList
from blip_bootstrap.schemas.tables import SHARD
from blip_bootstrap.storage.manifest import describe_files
from blip_bootstrap.storage.notes import NOTES
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_bootstrap.storage.parts import read_left_out
from blip_pipelines.ingest.download import ShardDownload, download_images

HERE = RayConfig(address="none")


Rows = list[tuple[str, str]]


class Web(ThreadingHTTPServer):
    """Serves a picture under every path, but for those that are `gone`; `asked` counts the requests by path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), WebHandler)
        self.asked: Counter[str] = Counter()
        self.gone: dict[str, int] = {}

    def rows(self, numbers: Sequence[int]) -> Rows:
        """Rows of a list: the picture of each number, with a text."""
        return [(f"http://127.0.0.1:{self.server_port}/{n}", f"text {n}") for n in numbers]

    def fetched(self) -> list[int]:
        """The numbers that were asked for since the last call; no number is asked for more than once."""
        asked, self.asked = self.asked, Counter()
        pictures = {path[1:]: count for path, count in asked.items() if path[1:].isdecimal()}  # not robots.txt
        assert not [path for path, count in pictures.items() if count > 1]
        return sorted(map(int, pictures))


class WebHandler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        status = self.server.gone.get(self.path, 200)
        stream = io.BytesIO()
        Image.new("RGB", (32, 32), ("red", "green", "blue")[len(self.path) % 3]).save(stream, "JPEG")
        body = stream.getvalue() if status == 200 else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Run:
    """The artifacts of one step: each call makes one of the lists as they are, out of those made before."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kin, self.counts = folder, list[Path](), dict[str, Any]()
        self.settings: dict[str, Any] = {"rows_per_shard": 4, "num_retries": 0, "allow_private_addresses": True}

    def __call__(self, *lists: Rows, name: str | None = None, retry: str | None = None, **more: Any) -> Path:
        """Make an artifact, whole, and check it: every row of the lists is there once."""
        out = self.begin(name)
        config = self.config(lists, more)
        paths = [urls.path for urls in config.urls]
        self.counts = download_images(
            out, *paths, config=config, ray=HERE, kin=[one for one in self.kin if one != out], retry=retry
        )
        self.finish(out)
        check(out, [row for rows in lists for row in rows[: config.limit]], self.counts)
        return out

    def begin(self, name: str | None) -> Path:
        out = self.folder / "artifacts" / "download_images" / (name or f"d{len(self.kin)}")
        out.mkdir(parents=True, exist_ok=True)
        return out

    def finish(self, out: Path) -> None:
        (out / "MANIFEST.json").write_text(json.dumps({"files": describe_files(out), "counts": self.counts}))
        self.kin = [out, *(one for one in self.kin if one != out)]

    def config(self, lists: Sequence[Rows], more: dict[str, Any]) -> DownloadConfig:
        urls = []
        for at, rows in enumerate(lists):
            path = self.folder / f"list{at}.tsv"
            path.write_text("url\tcaption\n" + "".join(f"{url}\t{text}\n" for url, text in rows))
            urls.append(UrlList(path=path))
        return DownloadConfig(urls=tuple(urls), image_size=16, **{**self.settings, **more})


def check(out: Path, listed: Rows, counts: dict[str, Any]) -> None:
    """Keys are unique and begin with their part's number; the lists are there, each row once; counts are of these."""
    kinds = {kind: rows_of(out, kind) for kind in ("listed", "removed", "retried")}
    every = [row for rows in kinds.values() for row in rows]
    assert len({row["key"] for row in every}) == len(every)
    assert Counter((row["url"], row["caption"]) for row in kinds["listed"]) == Counter(listed)
    tried = [row["uid"] for row in (*kinds["listed"], *kinds["removed"]) if row["status"] != "rejected"]
    assert len(set(tried)) == len(tried)
    current = kinds["listed"]
    found = Counter({"rows": len(current) + len(kinds["removed"]), "removed": len(kinds["removed"])})
    found.update(row["status"] for row in current)
    found.update(row["error_class"] for row in current if row["error_class"])
    assert counts == dict(+found)
    for part in parquet_files(out):
        assert {row["key"][:5] for row in read_parquet(part, ["key"]).to_pylist()} == {part.name[5:10]}
        shard = read_parquet(out / "rows" / part.name)
        assert shard.schema.equals(SHARD.schema)
        assert shard["uid"].to_pylist() == read_parquet(part, ["uid"])["uid"].to_pylist()
    assert {path.name for path in out.iterdir() if path.name.startswith(".")} <= {NOTES}


def rows_of(out: Path, kind: str) -> list[dict[str, Any]]:
    """The rows of one kind: listed, or one of those that are left out."""
    left_out = {
        (part, at): name
        for part, kinds in read_left_out(out).items()
        for name, spans in kinds.items()
        for first, last in spans
        for at in range(first, last + 1)
    }
    rows = [(part.name, row) for part in parquet_files(out) for row in read_parquet(part).to_pylist()]
    return [row for part, row in rows if left_out.get((part, int(row["key"][5:])), "listed") == kind]


def own(out: Path) -> list[str]:
    """The names of the parts that this artifact does not borrow."""
    return [part.name for part in parquet_files(out) if not part.is_symlink()]


def parts(*numbers: int) -> list[str]:
    return [f"part-{number:05d}.parquet" for number in numbers]


def names(out: Path) -> list[str]:
    return [part.name for part in parquet_files(out)]


class Killed(BaseException):
    """Stands for a kill -9."""


def kill_after(monkeypatch: pytest.MonkeyPatch, num_shards: int) -> Callable[[], None]:
    """Let the next download die once it has written so many parts; the function that is returned lets it live."""
    made, real = [0], ShardDownload.__call__

    def dying(self: ShardDownload, shard: Any) -> Iterator[Any]:
        if made[0] == num_shards:
            raise Killed
        made[0] += 1
        yield from real(self, shard)

    monkeypatch.setattr(ShardDownload, "__call__", dying)
    return lambda: monkeypatch.setattr(ShardDownload, "__call__", real)
