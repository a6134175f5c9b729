from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from blip_bootstrap.config import DownloadConfig
from blip_bootstrap.tables import ERROR_CLASSES
from blip_pipelines import connection
from blip_pipelines.connection import Deadline, is_public, resolve
from blip_pipelines.fetch import fetch, is_disallowed

CONFIG = DownloadConfig(timeout_s=20, num_retries=0, max_bytes=2_000_000)


def ask(server: Any, name: str, **settings: Any) -> Any:
    """Fetch from the test server, which alone may be private."""
    return fetch(server.url(name), CONFIG.model_copy(update=settings), frozenset({server.host}))


@pytest.mark.parametrize(
    ("name", "error_class"),
    [
        ("missing", "http_4xx"),
        ("limited", "http_4xx"),
        ("busy_always", "http_5xx"),
        ("cut_body", "truncated_image"),
        ("to_private", "private_address"),
        ("to_file", "unsupported_scheme"),
        ("loop", "too_many_redirects"),
        ("endless", "too_many_bytes"),
        ("declared_huge", "too_many_bytes"),
        ("noai", "disallowed"),
        ("hang_up", "connection"),
    ],
)
def test_failures_have_their_class(rude_server: Any, name: str, error_class: str) -> None:
    fetched = ask(rude_server, name)
    assert (fetched.body, fetched.error_class) == (None, error_class)
    assert fetched.error_message
    assert fetched.error_class in ERROR_CLASSES


@pytest.mark.parametrize("name", ["slow_body", "slow_header"])
def test_the_timeout_is_of_the_whole_answer(rude_server: Any, name: str) -> None:
    """A byte every 0.05 s: each read is quick, and the whole would take over a minute."""
    started = time.monotonic()
    fetched = ask(rude_server, name, timeout_s=0.5)
    assert (fetched.body, fetched.error_class) == (None, "timeout")
    assert fetched.error_message == "no whole answer within 0.5 s"
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("name", ["picture1.jpg", "to_picture", "keeps_open", "chunked", "noai_for_others"])
def test_pictures_arrive(rude_server: Any, name: str) -> None:
    fetched = ask(rude_server, name)
    assert fetched.error_message is None
    assert fetched.body.startswith(b"\xff\xd8\xff")


def test_503_is_asked_again_and_404_is_not(rude_server: Any) -> None:
    assert ask(rude_server, "busy_once?a", num_retries=1).body
    assert ask(rude_server, "busy_once?b", num_retries=0).error_class == "http_5xx"
    assert ask(rude_server, "busy_always?c", num_retries=2).error_class == "http_5xx"
    assert ask(rude_server, "missing?d", num_retries=2).error_class == "http_4xx"
    assert [rude_server.asked[f"/{n}"] for n in ("busy_once?a", "busy_always?c", "missing?d")] == [2, 3, 1]


@pytest.mark.parametrize(
    ("url", "error_class"),
    [
        ("file:///etc/hostname", "unsupported_scheme"),
        ("ftp://example.org/a.jpg", "unsupported_scheme"),
        ("no url at all", "unsupported_scheme"),
        ("http://", "unsupported_scheme"),
        ("http://[::1", "unsupported_scheme"),
        ("http://host:99999/a.jpg", "unsupported_scheme"),
        ("http://name.invalid/a.jpg", "dns"),
        ("http://" + "a" * 70 + ".example/", "dns"),
        ("http://127.0.0.1/a.jpg", "private_address"),
        ("http://2130706433/a.jpg", "private_address"),
        ("http://user@127.0.0.1/a.jpg", "private_address"),
        ("http://[::ffff:127.0.0.1]/a.jpg", "private_address"),
        ("http://169.254.169.254/latest/meta-data", "private_address"),
        ("http://localhost/a.jpg", "private_address"),
    ],
)
def test_urls_that_are_refused_before_any_request(url: str, error_class: str) -> None:
    assert fetch(url, CONFIG).error_class == error_class


def test_private_addresses_are_allowed_only_when_asked_for(rude_server: Any) -> None:
    url = rude_server.url("picture2.jpg")
    assert fetch(url, CONFIG).error_class == "private_address"
    assert fetch(url, CONFIG.model_copy(update={"allow_private_addresses": True})).body
    assert fetch(url, CONFIG, frozenset({"127.0.0.1:1"})).error_class == "private_address"


def test_nobody_listens(rude_server: Any) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{held.getsockname()[1]}"
        assert fetch(f"http://{host}/", CONFIG, frozenset({host})).error_class == "connection"


def test_https_with_a_server_that_speaks_no_tls(rude_server: Any) -> None:
    fetched = fetch(f"https://{rude_server.host}/picture.jpg", CONFIG, frozenset({rude_server.host}))
    assert fetched.error_class == "connection"


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "fe80::1%eth0",
        "fc00::1",
        "::",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


def test_the_address_that_was_judged_is_the_one_connected_to(rude_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers differently the second time gets no second time."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def once(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if host == "rebinding.example" else host, port, *args, **kwargs)

    monkeypatch.setattr(connection.socket, "getaddrinfo", once)
    host = f"rebinding.example:{rude_server.server_port}"
    assert fetch(f"http://{host}/picture.jpg", CONFIG, frozenset({host})).body
    assert asked.count("rebinding.example") == 1
    assert resolve("rebinding.example", 80, allow_private=True) == ["127.0.0.1"]


def test_a_deadline_passes() -> None:
    deadline = Deadline.after(0.0)
    with pytest.raises(connection.FetchError, match="no whole answer within 0 s"):
        deadline.remaining_s()


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        ("noai", True),
        ("noindex, NoImageAI", True),
        ("blip-bootstrap: noai", True),
        ("otherbot: noai", False),
        ("noindex", False),
        ("unavailable_after: 25 Jun 2030 15:00:00 PST", False),
    ],
)
def test_robots_tags(value: str, refused: bool) -> None:
    assert is_disallowed(value, "blip-bootstrap") is refused
