"""What one loopback server says about its pictures, and what is asked, refused and noted then."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.config import DownloadConfig
from blip_pipelines.fetch import fetch
from blip_pipelines.fetch.courtesy import Courtesy, Shared
from blip_pipelines.fetch.hosts import Hosts, Limits
from blip_pipelines.ingest.fetched_rows import fetch_rows
from blip_pipelines.ingest.pictures import WebStore
from tests.support.tiny_pipeline import encode, serving

Answer = tuple[int, bytes, dict[str, str]]

PICTURE = encode(1)


class Host(ThreadingHTTPServer):
    """Answers each path as `says` has it, else with a picture; counts requests, and connections at a time."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.says: dict[str, Answer | list[Answer]] = {}
        self.asked: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.lock, self.at_once, self.most_at_once, self.slow_s = threading.Lock(), 0, 0, 0.0

    def answer(self, path: str) -> Answer:
        found = self.says.get(path)
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        if found is not None:
            return found
        return (404, b"", {}) if path in ("/robots.txt", "/.well-known/tdmrep.json") else (200, PICTURE, {})

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up."""


class Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        host = self.server
        with host.lock:
            host.asked[self.path] += 1
            host.agents.add(self.headers["User-Agent"])
            host.at_once += 1
            host.most_at_once = max(host.most_at_once, host.at_once)
            status, body, headers = host.answer(self.path)
        time.sleep(host.slow_s)
        with host.lock:
            host.at_once -= 1
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(fetch, "BACK_OFF_S", 0.01)
    with serving(Host()) as server:
        yield server


@pytest.fixture(scope="module")
def store() -> Iterator[WebStore]:
    with WebStore(DownloadConfig()) as store:
        yield store


def config(**settings: object) -> DownloadConfig:
    return DownloadConfig.model_validate({"timeout_s": 10, "allow_private_addresses": True, **settings})


def rows_of(
    host: Host, store: WebStore, *paths: str, courtesy: Courtesy | None = None, **settings: object
) -> list[Any]:
    urls = [f"http://127.0.0.1:{host.server_port}{path}" for path in paths]
    rows = [{"key": str(number), "url": url, "status": None, "attempts": None} for number, url in enumerate(urls)]
    return list(fetch_rows(rows, config(**settings), frozenset(), store, courtesy=courtesy))


def classes(rows: list[Any]) -> list[str | None]:
    return [row["error_class"] for row in rows]


def test_robots_txt_is_asked_once_and_obeyed(host: Host, store: WebStore) -> None:
    host.says["/robots.txt"] = (200, b"User-agent: *\nDisallow: /no/", {})
    rows = rows_of(host, store, "/1.jpg", "/no/2.jpg", "/3.jpg", "/no/4.jpg", contact="https://lab.example")
    assert classes(rows) == [None, "robots_txt", None, "robots_txt"]
    assert [row["robots_txt"] for row in rows] == ["allowed", "disallowed"] * 2
    assert host.asked == {"/robots.txt": 1, "/.well-known/tdmrep.json": 1, "/1.jpg": 1, "/3.jpg": 1}
    assert host.agents == {"blip-bootstrap/0.1 (+https://lab.example)"}
    assert all(row["said_at"] for row in rows)
    assert [one["error_class"] for one in rows[1]["attempts"]] == ["robots_txt"]


@pytest.mark.parametrize(
    ("settings", "found", "asks"),
    [({"robots": "record"}, "disallowed", 1), ({"robots": "ignore"}, None, 0)],
)
def test_robots_txt_recorded_and_ignored(
    host: Host, store: WebStore, settings: dict[str, Any], found: str | None, asks: int
) -> None:
    host.says["/robots.txt"] = (200, b"User-agent: *\nDisallow: /", {})
    (row,) = rows_of(host, store, "/1.jpg", **settings)
    assert (row["status"], row["robots_txt"], host.asked["/robots.txt"]) == ("success", found, asks)


@pytest.mark.parametrize(
    ("answer", "error_class", "pictures"),
    [
        ((500, b"", {}), "robots_txt", 0),
        ((403, b"", {}), None, 2),
        ((302, b"", {"Location": "/robots.txt"}), None, 2),
        ((302, b"", {"Location": "/rules"}), "robots_txt", 0),
        ((200, b"User-agent: *\nDisallow:\n" + b"# long\n" * 100_000 + b"Disallow: /", {}), None, 2),
    ],
)
def test_robots_txt_that_is_odd(
    host: Host, store: WebStore, answer: Answer, error_class: str | None, pictures: int
) -> None:
    """HTTP 5xx: refused for now; 4xx and a loop: there are no rules; a redirect is followed; 500 KiB are read."""
    host.says |= {"/robots.txt": answer, "/rules": (200, b"User-agent: *\nDisallow: /", {})}
    assert classes(rows_of(host, store, "/1.jpg", "/2.jpg")) == [error_class] * 2
    assert host.asked["/1.jpg"] + host.asked["/2.jpg"] == pictures


def test_a_redirect_to_what_is_disallowed(host: Host, store: WebStore) -> None:
    host.says |= {
        "/robots.txt": (200, b"User-agent: *\nDisallow: /no/", {}),
        "/1.jpg": (302, b"", {"Location": "/no/1.jpg"}),
    }
    assert classes(rows_of(host, store, "/1.jpg")) == ["robots_txt"]
    assert not host.asked["/no/1.jpg"]


def test_what_headers_and_files_say_is_a_column_and_obeyed_by_setting(host: Host, store: WebStore) -> None:
    headers = {
        "/noai.jpg": {"X-Robots-Tag": "noai"},
        "/noindex.jpg": {"X-Robots-Tag": "noindex"},
        "/tdm.jpg": {"TDM-Reservation": "1", "TDM-Policy": "https://p.example"},
        "/usage.jpg": {"Content-Usage": "train-ai=n"},
        "/free.jpg": {"TDM-Reservation": "0", "Content-Usage": "train-ai=y"},
    }
    host.says |= {path: (200, PICTURE, given) for path, given in headers.items()}
    rules = [{"location": "/file", "tdm-reservation": 1}]
    host.says["/.well-known/tdmrep.json"] = (200, json.dumps(rules).encode(), {})
    paths = [*headers, "/file.jpg", "/plain.jpg"]
    obeyed = rows_of(host, store, *paths)
    refused = ["disallowed", None, "disallowed", "disallowed", None, "disallowed", None]
    assert classes(obeyed) == refused
    assert not host.asked["/file.jpg"]
    settings: dict[str, Any] = {
        "honour_noai": False,
        "honour_noindex": True,
        "tdm_reservation": "record",
        "content_usage": "record",
    }
    recorded = rows_of(host, store, *paths, **settings)
    assert classes(recorded) == [None, "disallowed", None, None, None, None, None]
    assert [row["x_robots_tag"] for row in recorded] == ["noai", "noindex", *[None] * 5]
    assert [row["tdm_reservation"] for row in recorded] == [
        None, None, "header: 1 https://p.example", None, "header: 0", "tdmrep.json: 1", None,
    ]  # fmt: skip
    assert [row["content_usage"] for row in recorded] == [
        None, None, None, "header: train-ai=n", "header: train-ai=y", None, None,
    ]  # fmt: skip
    assert [row["x_robots_tag"] for row in obeyed[:2]] == ["noai", "noindex"]
    assert obeyed[5]["tdm_reservation"] == "tdmrep.json: 1"


def test_429_with_retry_after_holds_the_whole_host_back(host: Host, store: WebStore) -> None:
    host.says["/1.jpg"] = [(429, b"", {"Retry-After": "1"}), (200, PICTURE, {})]
    started = time.monotonic()
    (row,) = rows_of(host, store, "/1.jpg")
    assert time.monotonic() - started >= 1
    assert row["status"] == "success"
    tried = [(one["status"], one["error_class"], one["http_status"]) for one in row["attempts"]]
    assert tried == [("failed_to_download", "http_4xx", 429), ("success", None, 200)]
    assert row["attempts"][0]["time"] <= row["attempts"][1]["time"]


def test_a_host_that_asks_for_too_long_rests(host: Host, store: WebStore) -> None:
    host.says["/0.jpg"] = (429, b"", {"Retry-After": "3600"})
    rows = rows_of(host, store, *(f"/{number}.jpg" for number in range(5)), num_threads=1)
    assert classes(rows) == ["http_4xx", *["host_rests"] * 4]
    assert host.asked["/0.jpg"] == 1
    assert rows[1]["status"] == "failed_to_download"


def test_503_then_200_and_a_host_that_only_fails(host: Host, store: WebStore) -> None:
    host.says["/1.jpg"] = [(503, b"", {}), (200, PICTURE, {})]
    assert classes(rows_of(host, store, "/1.jpg")) == [None]
    for number in range(20):
        host.says[f"/bad{number}.jpg"] = (500, b"", {})
    paths = [f"/bad{number}.jpg" for number in range(20)]
    rows = rows_of(host, store, *paths, host_failures=4, num_retries=0, num_threads=1)
    assert Counter(classes(rows)) == {"http_5xx": 4, "host_rests": 16}


def test_connections_at_a_time(host: Host, store: WebStore) -> None:
    host.slow_s = 0.02
    rows = rows_of(host, store, *(f"/{number}.jpg" for number in range(24)), num_threads=12, host_connections=3)
    assert classes(rows) == [None] * 24
    assert host.most_at_once <= 3


def test_own_servers_have_no_limits_and_are_not_asked_for_rules(host: Host, store: WebStore) -> None:
    own = f"127.0.0.1:{host.server_port}"
    rows = [{"key": str(i), "url": f"http://{own}/{i}.jpg", "status": None, "attempts": None} for i in range(4)]
    strict = DownloadConfig(host_requests_per_s=0.001)
    assert classes(list(fetch_rows(rows, strict, frozenset({own}), store))) == [None] * 4
    assert not host.asked["/robots.txt"]


OTHER = """
import sys, time
from pathlib import Path
from blip_bootstrap.config import DownloadConfig
from blip_pipelines.fetch.hosts import Hosts, Limits
hosts = Hosts(Path(sys.argv[1]), Limits.of(DownloadConfig(host_connections=2)))
print(hosts.enter("127.0.0.1"), flush=True)
sys.stdin.read()
"""


def test_processes_share_limits_and_rules(tmp_path: Path, host: Host, store: WebStore) -> None:
    """A second process has one of two connections until it is killed; what one has read of a site another knows."""
    command = [sys.executable, "-W", "ignore", "-c", OTHER, str(tmp_path)]
    ours = Hosts(tmp_path, Limits.of(DownloadConfig(host_connections=2)))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert b"wait_s=0.0" in other.stdout.readline()
        assert [ours.enter("127.0.0.1").is_full for _ in range(2)] == [False, True]
        other.kill()
    assert not ours.enter("127.0.0.1").is_full
    shared = Shared(tmp_path / "sites")
    rows_of(host, store, "/1.jpg", courtesy=Courtesy(config(), shared=shared))
    rows_of(host, store, "/2.jpg", courtesy=Courtesy(config(num_retries=0), shared=shared))
    assert host.asked["/robots.txt"] == 1
