"""Each evil of the web ends in its class, within the deadline, and no other row is the worse for it."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from blip_bootstrap.config import DownloadConfig
from blip_bootstrap.schemas.closed_lists import ERROR_CLASSES
from blip_pipelines.fetch import addresses
from blip_pipelines.fetch.deadlines import Deadline, FetchError
from blip_pipelines.fetch.proxies import Proxies
from blip_pipelines.ingest.fetched_rows import fetch_rows
from blip_pipelines.ingest.pictures import WebStore
from tests.support.evil_server import EVILS, PUBLIC, ROBOTS, EvilNames, EvilServer, evil_server, picture


def download(server: EvilServer, evils: Any, is_own: bool = True, **settings: Any) -> dict[str, dict[str, Any]]:
    """The rows of the table `images`, by the evils' names."""
    config = DownloadConfig(timeout_s=2, max_bytes=1_000_000, image_size=48, **settings)
    rows = [{"key": f"{n:010d}", "url": server.url(evil[1]), "status": None} for n, evil in enumerate(evils)]
    own = frozenset({server.host, server.silent} if is_own else ())
    with WebStore(config) as store:
        found = list(fetch_rows(rows, config, own, store, Proxies()))
    return {evil[0]: row for evil, row in zip(evils, found, strict=True)}


@pytest.fixture(scope="module")
def served() -> Any:
    with evil_server() as server:
        yield server


def test_each_ends_in_its_class(served: EvilServer, monkeypatch: pytest.MonkeyPatch) -> None:
    names = EvilNames()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    monkeypatch.setattr(socket, "create_connection", names.create_connection)
    with socket.create_connection(("127.0.0.1", int(served.silent.partition(":")[2]))):  # its queue is full
        found = download(served, EVILS)
    assert {name: (row["status"], row["error_class"]) for name, row in found.items()} == {
        name: (status, error_class) for name, _, status, error_class in EVILS
    }
    assert {error_class for _, _, _, error_class in EVILS if error_class} <= set(ERROR_CLASSES)
    for name, row in found.items():
        assert (row["jpg"] is None) == (row["status"] != "success"), name
        assert bool(row["error_message"]) == (row["status"] != "success"), name
    same = [found[f"one base name, {which} folder"]["sha256"] for which in ("first", "second")]
    assert same[0] != same[1]
    assert found["503, then 200"]["width"] == 72
    assert PUBLIC in names.connected
    assert served.asked["/a.jpg"] == 0  # neither the name that leads inward nor the one that turns there


def test_what_robots_txt_disallows_is_not_asked(served: EvilServer) -> None:
    found = download(served, [ROBOTS, EVILS[-1]], is_own=False, allow_private_addresses=True)
    assert [row["error_class"] for row in found.values()] == ["robots_txt", None]
    assert served.asked["/private/a.jpg"] == 0


def test_a_connection_with_more_than_its_answer_is_not_used_again(served: EvilServer) -> None:
    """The rest of the answer that is too long would be the start of the next one."""
    evils = [evil for evil in EVILS if evil[1] in ("/long.jpg", "/a/same.jpg", "/html.jpg", "/b/same.jpg")] * 8
    rows = [(f"{n} {evil[0]}", *evil[1:]) for n, evil in enumerate(evils)]
    found = download(served, rows, num_threads=1)
    assert [row["error_class"] for row in found.values()] == [evil[3] for evil in evils]


def test_names_are_looked_up_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **_: Any) -> Any:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    deadline = Deadline.after(20)
    for _ in range(3):
        assert addresses.resolve("kept.example", 80, True, deadline) == ["127.0.0.1"]
    with pytest.raises(FetchError, match="not a public address"):  # checked at every use
        addresses.resolve("kept.example", 80, False, deadline)
    assert asked == ["kept.example"]
    monkeypatch.setattr(addresses, "LOOKUP_KEPT_S", 0.0)
    addresses.resolve("kept.example", 80, True, deadline)
    assert len(asked) == 2


@pytest.fixture(scope="module")
def store() -> Iterator[WebStore]:
    with WebStore(DownloadConfig()) as store:
        yield store


BODY = picture(9)
SHA256, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()


@pytest.mark.parametrize(
    ("extra", "is_right"),
    [
        (None, True),
        ({"sha256": SHA256}, True),
        ({"SHA256": f" {SHA256.upper()} ", "md5": MD5}, True),
        ({"sha256": "0" * 64}, False),
        ({"MD5": "0" * 32}, False),
        ({"sha256": SHA256, "md5": MD5[::-1]}, False),
        ({"sha256": "unknown", "md5": 7, "sha256_of_text": "0" * 64, "note": "the md5"}, True),
    ],
)
def test_a_list_that_gives_digests(
    served: EvilServer, store: WebStore, extra: dict[str, Any] | None, is_right: bool
) -> None:
    told = None if extra is None else json.dumps(extra)
    row = {"key": "0", "url": served.url("/a/same.jpg"), "status": None, "extra": told}
    for verify in (True, False):
        config = DownloadConfig(verify_digests=verify)
        (found,) = fetch_rows([row], config, frozenset({served.host}), store, Proxies())
        right = is_right or not verify
        status = ("success", None) if right else ("failed_to_download", "wrong_digest")
        assert (found["status"], found["error_class"], found["sha256"]) == (*status, SHA256)
