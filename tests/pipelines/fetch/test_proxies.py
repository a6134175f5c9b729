"""The environment's proxies, and that nobody reaches through them what is refused without them."""

from __future__ import annotations

import base64
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.config import DownloadConfig, RayConfig, UrlList
from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.closed_lists import ERROR_CLASSES
from blip_pipelines.fetch import connection
from blip_pipelines.fetch.deadlines import Deadline, FetchError
from blip_pipelines.fetch.fetch import fetch
from blip_pipelines.fetch.proxies import Proxies, Proxy
from blip_pipelines.ingest.download import download_images
from tests.support.tiny_pipeline import encode

CONFIG = DownloadConfig(timeout_s=20, num_retries=0)


class ProxyHandler(BaseHTTPRequestHandler):
    """Plays the web itself: any page is a picture, to_NAME redirects to http://NAME/, and no tunnel is opened."""

    server: ProxyServer

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        if self.server.password and self.headers["Proxy-Authorization"] != self.server.password:
            self.answer(407, b"")
        elif "/to_" in self.path:
            self.answer(302, b"", Location=f"http://{self.path.partition('/to_')[2]}/")
        else:
            self.answer(200, encode(1))

    def do_CONNECT(self) -> None:
        self.server.asked.append((f"CONNECT {self.path}", dict(self.headers)))
        self.answer(self.server.tunnel_status, b"")
        if self.server.tls:
            with self.server.tls.wrap_socket(self.connection, server_side=True) as inside:
                self.server.inside.append(inside.recv(65_536).decode())
                body = encode(2)
                inside.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class ProxyServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ProxyHandler)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.password, self.tunnel_status = "", 403
        self.tls: ssl.SSLContext | None = None
        self.inside: list[str] = []

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProxyServer]:
    """A proxy, which the environment names for both schemes."""
    server = ProxyServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_pages_come_through_the_proxy_by_their_whole_url(proxy: ProxyServer) -> None:
    fetched = fetch("http://Pictures.example:8080/ein Bild/é.jpg?w=1&h=ü#top", CONFIG)
    assert fetched.body == encode(1)
    (path, headers), *_ = proxy.asked
    assert path == "http://pictures.example:8080/ein%20Bild/%C3%A9.jpg?w=1&h=%C3%BC"
    assert headers["Host"] == "pictures.example:8080"
    assert "Proxy-Authorization" not in headers
    assert fetch("http://[2606:2800:220:1::1]/a.jpg", CONFIG).body
    assert proxy.asked[-1][0] == "http://[2606:2800:220:1::1]/a.jpg"
    assert fetch("http://bücher.example", CONFIG).body
    assert proxy.asked[-1][0] == "http://xn--bcher-kva.example/"


def test_a_proxy_is_told_who_we_are_and_the_server_is_not(proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.password = "Basic " + base64.b64encode(b"me:p@ss w\xc3\xb6rd").decode()
    url = "http://pictures.example/a.jpg"
    refused = fetch(url, CONFIG)
    assert (refused.error_class, "HTTP 407" in str(refused.error_message)) == ("proxy", True)
    assert "proxy" in ERROR_CLASSES
    monkeypatch.setenv("http_proxy", f"http://me:p%40ss%20w%C3%B6rd@127.0.0.1:{proxy.server_port}/")
    assert fetch(url, CONFIG).body
    assert "p%40ss" not in repr(Proxies.of_environment())
    assert "Basic" not in repr(Proxies.of_environment())


def test_https_goes_through_a_tunnel(proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"me:pw@127.0.0.1:{proxy.server_port}")  # the scheme may be left out
    refused = fetch("https://pictures.example/a.jpg", CONFIG)
    assert refused.error_class == "connection"
    assert str(refused.error_message).startswith(f"proxy 127.0.0.1:{proxy.server_port}: HTTP 403")
    (path, headers), *_ = proxy.asked
    assert path == "CONNECT pictures.example:443"
    assert headers == {"Host": "pictures.example:443", "Proxy-Authorization": "Basic bWU6cHc="}
    proxy.tunnel_status = 407
    assert fetch("https://pictures.example/a.jpg", CONFIG).error_class == "proxy"
    proxy.tunnel_status = 200  # and then speaks no TLS
    assert fetch("https://pictures.example/a.jpg", CONFIG).error_class == "connection"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of pictures.example, signed by itself, and its key."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("no openssl to make a certificate with")
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-out", str(files[0]), "-keyout",
               str(files[1]), "-subj", "/CN=x", "-addext", "subjectAltName=DNS:pictures.example"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return files


def test_a_picture_comes_through_the_tunnel_from_the_server_that_was_named(
    proxy: ProxyServer, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.tls, proxy.tunnel_status = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), 200
    proxy.tls.load_cert_chain(*certificate)
    monkeypatch.setattr(connection, "_tls", lambda: ssl.create_default_context(cafile=str(certificate[0])))
    monkeypatch.setenv("https_proxy", f"http://me:pw@127.0.0.1:{proxy.server_port}")
    assert fetch("https://pictures.example/a b.jpg", CONFIG).body == encode(2)
    (asked,) = proxy.inside
    assert asked.startswith("GET /a%20b.jpg HTTP/1.1\r\nHost: pictures.example\r\n")
    assert "Proxy-Authorization" not in asked
    other = fetch("https://other.example/a.jpg", CONFIG)
    assert (other.error_class, "certificate" in str(other.error_message)) == ("connection", True)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "10.1.2.3", "2130706433", "0x7f.1", "127.0.0.1.", "[::1]", "[::ffff:10.0.0.1]", "[fd00:ec2::254]",
        "169.254.169.254", "100.100.100.200", "metadata.google.internal", "localhost", "intranet", "db.corp",
        "127.0.0.1.0x7f", "1.2.3.4.5", "[64:ff9b:1::a00:1]", "127%2e0%2e0%2e1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_is_private_is_refused_before_the_proxy_hears_of_it(proxy: ProxyServer, scheme: str, host: str) -> None:
    refused = fetch(f"{scheme}://{host}/a.jpg", CONFIG)
    assert refused.error_class in ("private_address", "unsupported_scheme")
    assert proxy.asked == []


def test_a_redirect_to_a_private_address_is_refused_behind_a_proxy(proxy: ProxyServer) -> None:
    assert fetch("http://pictures.example/to_10.0.0.1", CONFIG).error_class == "private_address"
    assert fetch("http://pictures.example/to_other.example", CONFIG).body
    assert [path for path, _ in proxy.asked] == [
        "http://pictures.example/to_10.0.0.1", "http://pictures.example/to_other.example", "http://other.example/",
    ]  # fmt: skip


def test_a_name_that_is_private_here_is_refused_behind_a_proxy(
    proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are looked up here, too; one that is not known here is the proxy's to judge."""
    known = {"inside.example.org": "10.0.0.7", "outside.example.org": "93.184.216.34", "127.0.0.1": "127.0.0.1"}

    def resolve(host: str, port: int, allow_private: bool, deadline: Deadline) -> list[str]:
        if host not in known:
            raise FetchError("dns", "not known")
        if not allow_private and known[host].startswith("10."):
            raise FetchError("private_address", "not public")
        return [known[host]]

    monkeypatch.setattr(connection, "resolve", resolve)
    found = [fetch(f"http://{name}.example.org/a.jpg", CONFIG).error_class for name in ("inside", "outside", "nowhere")]
    assert found == ["private_address", None, None]
    allowed = CONFIG.model_copy(update={"allow_private_addresses": True})
    assert fetch("http://inside.example.org/a.jpg", allowed).body


def test_this_machine_is_never_asked_through_a_proxy(proxy: ProxyServer, rude_server: Any) -> None:
    url = rude_server.url("picture1.jpg")
    assert fetch(url, CONFIG, frozenset({rude_server.host})).body
    assert fetch(url, CONFIG.model_copy(update={"allow_private_addresses": True})).body
    assert proxy.asked == []


def test_a_proxy_that_is_not_there_has_a_class_of_its_own(monkeypatch: pytest.MonkeyPatch, proxy: ProxyServer) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    fetched = fetch("http://pictures.example/a.jpg", CONFIG)
    assert (fetched.error_class, str(fetched.error_message).partition(": ")[0]) == ("proxy", "127.0.0.1:9")
    without = CONFIG.model_copy(update={"use_proxies": False})
    assert fetch("http://pictures.invalid/a.jpg", without).error_class == "dns"


HOST = ("http", "www.example.org", 80)


@pytest.mark.parametrize(
    ("environment", "asked", "proxied"),
    [
        ({"http_proxy": "a:1"}, HOST, "a"),
        ({"HTTP_PROXY": "a:1"}, HOST, "a"),
        ({"HTTP_PROXY": "a:1", "http_proxy": "b:1"}, HOST, "b"),
        ({"HTTP_PROXY": "a:1", "http_proxy": ""}, HOST, None),
        ({"HTTP_PROXY": "a:1", "REQUEST_METHOD": "GET"}, HOST, None),
        ({"http_proxy": "a:1", "REQUEST_METHOD": "GET"}, HOST, "a"),
        ({"https_proxy": "a:1"}, HOST, None),
        ({"ALL_PROXY": "a:1"}, HOST, "a"),
        ({"all_proxy": "socks5://a:1", "http_proxy": "b:1", "HTTPS_PROXY": "c:1"}, HOST, "b"),
        ({"http_proxy": "a:1", "no_proxy": "*"}, HOST, None),
        ({"http_proxy": "a:1", "no_proxy": "*:80"}, HOST, None),
        ({"http_proxy": "a:1", "NO_PROXY": "other.org, example.org"}, HOST, None),
        ({"http_proxy": "a:1", "no_proxy": ".example.org"}, HOST, None),
        ({"http_proxy": "a:1", "no_proxy": "*.EXAMPLE.org"}, HOST, None),
        ({"http_proxy": "a:1", "no_proxy": "ample.org,www.example.org.uk"}, HOST, "a"),
        ({"http_proxy": "a:1", "no_proxy": "example.org:80"}, HOST, None),
        ({"http_proxy": "a:1", "no_proxy": "example.org:8080"}, HOST, "a"),
        ({"http_proxy": "a:1", "no_proxy": "93.184.0.0/16"}, ("http", "93.184.216.34", 80), None),
        ({"http_proxy": "a:1", "no_proxy": "93.184.216.34:81"}, ("http", "93.184.216.34", 80), "a"),
        ({"http_proxy": "a:1", "no_proxy": "2606::/16"}, ("http", "2606:2800::1", 80), None),
        ({"http_proxy": "a:1", "no_proxy": "[2606:2800::1]:80"}, ("http", "2606:2800::1", 80), None),
        ({"http_proxy": "a:1", "no_proxy": ", ."}, HOST, "a"),
    ],
)
def test_which_proxy_the_environment_names(
    environment: dict[str, str], asked: tuple[str, str, int], proxied: str | None
) -> None:
    proxy = Proxies.of_environment(environment).for_host(*asked)
    assert proxy == (Proxy(proxied, 1) if proxied else None)


@pytest.mark.parametrize(
    "value", ["socks5://me:secret@a:1", "https://a:1", "http://:1", "http://a:port", "http://a:99999"]
)
def test_a_proxy_of_another_kind_is_told_before_anything_is_fetched(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", value)
    path = tmp_path / "web.tsv"
    path.write_text("url\tcaption\nhttp://a.example/1.jpg\ttext\n")
    with pytest.raises(InputError, match=r"^http_proxy: .*write http://host:port") as caught:
        download_images(tmp_path / "out", path, config=DownloadConfig(urls=(UrlList(path=path),)), ray=RayConfig())
    assert "secret" not in str(caught.value)
