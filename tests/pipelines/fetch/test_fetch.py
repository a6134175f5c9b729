from __future__ import annotations

import socket
import time
from typing import Any

import pytest
from pydantic import ValidationError

from blip_bootstrap.config import DownloadConfig
from blip_bootstrap.schemas.closed_lists import ERROR_CLASSES
from blip_pipelines.fetch.addresses import resolve
from blip_pipelines.fetch.deadlines import Deadline, FetchError
from blip_pipelines.fetch.directives import is_disallowed
from blip_pipelines.fetch.fetch import fetch

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
        ("gzip_bomb", "too_many_bytes"),
        ("no_location", "other"),
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


@pytest.mark.parametrize("name", ["picture1.jpg", "to_picture", "keeps_open", "chunked", "noai_for_others", "gzip"])
def test_pictures_arrive(rude_server: Any, name: str) -> None:
    fetched = ask(rude_server, name)
    assert fetched.error_message is None
    assert fetched.body.startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("/café/ブログ1.jpg".encode(), "/caf%C3%A9/%E3%83%96%E3%83%AD%E3%82%B01.jpg"),
        ("/café/1.jpg".encode("latin-1"), "/caf%C3%A9/1.jpg"),
        (b"/caf%C3%A9/2.jpg", "/caf%C3%A9/2.jpg"),
        (b"/caf%E9/2.jpg", "/caf%E9/2.jpg"),
        (b"/my pics/p 1.jpg", "/my%20pics/p%201.jpg"),
        (b"  /p3.jpg ", "/p3.jpg"),
        (b"p4.jpg", "/p4.jpg"),
        (b"./a/../p5.jpg", "/p5.jpg"),
        (b"/p6.jpg#top", "/p6.jpg"),
        (b"/p7.jpg?a=1#top", "/p7.jpg?a=1"),
        ("/p8.jpg?q=é&r=a b".encode(), "/p8.jpg?q=%C3%A9&r=a%20b"),
        (b"//{host}/p9.jpg", "/p9.jpg"),
        (b"HTTP://{host}/p10.jpg", "/p10.jpg"),
        ("http://{host}/ü/p11.jpg".encode(), "/%C3%BC/p11.jpg"),
        (b"http://{host}", "/"),
        (b"http://{host}?p12", "/?p12"),
        (b"?5031332e6a7067", "/redirect?5031332e6a7067"),
    ],
)  # fmt: skip
def test_redirects_lead_where_a_browser_goes(rude_server: Any, location: bytes, asked: str) -> None:
    before = rude_server.asked[asked]
    target = location.replace(b"{host}", rude_server.host.encode())
    fetched = ask(rude_server, f"redirect?{target.hex()}")
    assert fetched.error_message is None
    assert fetched.body.startswith(b"\xff\xd8\xff")
    assert rude_server.asked[asked] == before + 1


@pytest.mark.parametrize(
    ("location", "error_class"),
    [
        (b"", "other"),
        (b"   ", "other"),
        (b"http://[::1", "unsupported_scheme"),
        (b"//", "too_many_redirects"),
        (b"http://", "too_many_redirects"),
        (b"javascript:alert(1)", "unsupported_scheme"),
        (b"data:image/png;base64,AAAA", "unsupported_scheme"),
        (b"http://host:port/", "unsupported_scheme"),
        (b"http://a b.example/", "unsupported_scheme"),
        (b"//10.0.0.1/p.jpg", "private_address"),
        ("http://localhost。/".encode(), "private_address"),
        (b"#top", "too_many_redirects"),
    ],
)
def test_redirects_that_lead_nowhere_have_their_class(rude_server: Any, location: bytes, error_class: str) -> None:
    assert ask(rude_server, f"redirect?{location.hex()}").error_class == error_class


def test_a_url_with_a_password_uses_it_for_its_own_host_alone(rude_server: Any) -> None:
    host = rude_server.host
    assert fetch(f"http://me:p%40ss@{host}/members?p1", CONFIG, frozenset({host})).body
    assert ask(rude_server, "members?p1").error_class == "http_4xx"
    elsewhere = f"http://{host}/members?p1".encode().hex()
    assert fetch(f"http://me:p%40ss@{host}/redirect?{elsewhere}", CONFIG, frozenset({host})).error_class == "http_4xx"


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
        ("http://127.0.0.1./a.jpg", "private_address"),
        ("http://0x7f.1/a.jpg", "private_address"),
        ("http://[64:ff9b:1::a00:1]/a.jpg", "private_address"),
        ("http://[::127.0.0.1]/a.jpg", "private_address"),
        ("http://metadata.google.internal/computeMetadata/v1/", "private_address"),
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


def test_the_address_that_was_judged_is_the_one_connected_to(rude_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers differently the second time gets no second time."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def once(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if host == "rebinding.example" else host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", once)
    host = f"rebinding.example:{rude_server.server_port}"
    assert fetch(f"http://{host}/picture.jpg", CONFIG, frozenset({host})).body
    assert asked.count("rebinding.example") == 1
    assert resolve("rebinding.example", 80, True, Deadline.after(9)) == ["127.0.0.1"]


def test_a_deadline_passes() -> None:
    deadline = Deadline.after(0.0)
    with pytest.raises(FetchError, match="no whole answer within 0 s"):
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
        ("noai, unavailable_after: 25 Jun 2030 15:00:00 PST, noindex", True),
        ("max-snippet: 20, noai", True),
        ("otherbot: noindex, noai", False),
        ("otherbot: noindex, BLIP-Bootstrap: noindex, noai", True),
        ("noai, otherbot: noindex", True),
        ("*: noai", True),
        ("", False),
    ],
)
def test_robots_tags(value: str, refused: bool) -> None:
    assert is_disallowed(value, "blip-bootstrap") is refused


@pytest.mark.parametrize(
    ("settings", "header", "token"),
    [
        ({}, "blip-bootstrap/0.1", "blip-bootstrap"),
        (
            {"contact": "https://lab.example/bot"},
            "blip-bootstrap/0.1 (+https://lab.example/bot)",
            "blip-bootstrap",
        ),
        ({"user_agent": "my-bot/2", "contact": "me@lab.example"}, "my-bot/2 (+me@lab.example)", "my-bot"),
        ({"user_agent": "Mozilla/5.0 (compatible; Other/1; +http://o.example)"}, None, "other"),
    ],
)
def test_servers_learn_who_asks_and_can_address_us(
    rude_server: Any, settings: dict[str, str], header: str | None, token: str
) -> None:
    config = DownloadConfig.model_validate({"num_retries": 0, **settings})
    assert config.agent == header or header is None
    refused = fetch(rude_server.url(f"noai_for?{token}"), config, frozenset({rude_server.host}))
    assert refused.error_class == "disallowed"
    assert refused.error_message == f"X-Robots-Tag: {token}: noai"
    assert rude_server.agents[-1] == config.agent
    assert fetch(rude_server.url("noai_for?another"), config, frozenset({rude_server.host})).body


@pytest.mark.parametrize("value", ["", "two\nlines", "caf\u00e9"])
def test_a_user_agent_that_no_header_can_carry_is_a_mistake_of_the_configuration(value: str) -> None:
    with pytest.raises(ValidationError, match="user_agent"):
        DownloadConfig(user_agent=value)
