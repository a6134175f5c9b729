"""A web server on loopback with one route for each evil of the web, and the class in which each of them ends."""

from __future__ import annotations

import io
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import Image

FAIL = "failed_to_download"
BROKEN = "failed_to_resize"

EVILS: tuple[tuple[str, str, str, str | None], ...] = (
    ("404", "/404.jpg", FAIL, "http_4xx"),
    ("410", "/410.jpg", FAIL, "http_4xx"),
    ("429 with Retry-After", "/429.jpg", FAIL, "http_4xx"),
    ("503, then 200", "/503-once.jpg", "success", None),
    ("connection reset", "/reset.jpg", FAIL, "connection"),
    ("connect that hangs", "http://{silent}/a.jpg", FAIL, "timeout"),
    ("body that drips", "/drip.jpg", FAIL, "timeout"),
    ("endless body", "/endless.jpg", FAIL, "too_many_bytes"),
    ("fewer bytes than Content-Length", "/short.jpg", FAIL, "truncated_image"),
    ("more bytes than Content-Length", "/long.jpg", BROKEN, "truncated_image"),
    ("HTML as .jpg", "/html.jpg", BROKEN, "not_an_image"),
    ("JPEG cut in the middle", "/cut.jpg", BROKEN, "truncated_image"),
    ("PNG of 20,000 x 20,000 px in 400 KB", "/bomb.png", BROKEN, "too_many_pixels"),
    ("JPEG of 500 scans", "/scans.jpg", BROKEN, "too_many_scans"),
    ("animated GIF", "/moving.gif", "success", None),
    ("SVG", "/drawing.svg", BROKEN, "not_an_image"),
    ("CMYK JPEG", "/cmyk.jpg", "success", None),
    ("16-bit PNG", "/deep.png", "success", None),
    ("redirect loop", "/loop.jpg", FAIL, "too_many_redirects"),
    ("redirect to a private address", "/to-private.jpg", FAIL, "private_address"),
    ("redirect to file://", "/to-file.jpg", FAIL, "unsupported_scheme"),
    ("file:///etc/hostname", "file:///etc/hostname", FAIL, "unsupported_scheme"),
    ("a bare path", "/etc/hostname", FAIL, "unsupported_scheme"),
    ("a name that resolves to 127.0.0.1", "http://inward.example:{port}/a.jpg", FAIL, "private_address"),
    ("a name that resolves elsewhere the second time", "http://turning.example:{port}/a.jpg", FAIL, "connection"),
    ("non-ASCII URL", "/bücher/日本.jpg", "success", None),
    ("X-Robots-Tag: noai", "/noai.jpg", FAIL, "disallowed"),
    ("one base name, first folder", "/a/same.jpg", "success", None),
    ("one base name, second folder", "/b/same.jpg", "success", None),
)
"""Each evil, its URL (a path is of the server), the status of its row and its error class."""

ROBOTS = ("disallowed by robots.txt", "/private/a.jpg", FAIL, "robots_txt")
"""As in EVILS, for a server that is asked for its robots.txt: one that is not the run's own."""

PUBLIC = "93.184.215.14"
"""An address of the open Internet, to which tests must not connect."""


def picture(seed: int, format: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    """A smooth picture of 96 x 64 px."""
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 12, 3), np.uint8)
    image = Image.fromarray(coarse).resize((96, 64)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def pixel_bomb(side: int = 20_000) -> bytes:
    """A PNG of zeros: one megabyte of them, packed once and repeated."""
    packer = zlib.compressobj(9)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    million = packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_FULL_FLUSH)
    count = side * (side + 1)
    tail = packer.compress(bytes(count % 1_000_000)) + packer.flush()
    data = head + million * (count // 1_000_000) + tail[:-4] + struct.pack(">HH", count % 65_521, 1)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def scan_bomb(scans: int = 500) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    whole = picture(3, progressive=True)
    at = whole.rindex(b"\xff\xda")
    return whole[:at] + whole[at:-2] * scans + whole[-2:]


class EvilServer(ThreadingHTTPServer):
    """Answers each route of EVILS; `asked` counts the paths, and `silent` is a port where nobody accepts."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, endless_bytes: int = 1 << 34, drip_s: float = 3_600.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endless_bytes, self.drip_s = endless_bytes, drip_s
        self.asked = Counter[str]()
        self.host = f"127.0.0.1:{self.server_port}"
        self._silent = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.silent = f"127.0.0.1:{self._silent.getsockname()[1]}"

    def url(self, given: str) -> str:
        """The URL of an evil; `/etc/hostname` is given as it is."""
        whole = given if given == "/etc/hostname" or "://" in given else f"http://{self.host}{given}"
        return whole.replace("{port}", str(self.server_port)).replace("{silent}", self.silent)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what is wanted."""

    def server_close(self) -> None:
        super().server_close()
        self._silent.close()


class _Handler(BaseHTTPRequestHandler):
    server: EvilServer
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(self.path)
        self.server.asked[path] += 1
        answer = _ROUTES.get(path)
        answer(self) if answer else self.reply(b"", 404)

    def reply(self, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        headers = {"Content-Type": "image/jpeg", "Content-Length": str(length or len(body)), **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection |= length is not None

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def endless(self) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self._pour(bytes(65_536), self.server.endless_bytes, 0.0, float("inf"))

    def drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self._pour(b"\xff", 100_000, 0.05, time.monotonic() + self.server.drip_s)

    def _pour(self, piece: bytes, most: int, pause_s: float, until: float) -> None:
        sent = 0
        while sent < most and time.monotonic() < until:
            self.wfile.write(piece)
            self.wfile.flush()
            sent += len(piece)
            time.sleep(pause_s)
        self.close_connection = True


def _body(make: Callable[[], bytes], **more: Any) -> Callable[[_Handler], None]:
    return lambda handler: handler.reply(make(), **more)


def _status(status: int, **headers: Any) -> Callable[[_Handler], None]:
    return lambda handler: handler.reply(b"", status, **headers)


def _busy_once(handler: _Handler) -> None:
    first = handler.server.asked["/503-once.jpg"] == 1
    handler.reply(b"", 503) if first else handler.reply(picture(1))


def _inward(handler: _Handler) -> None:
    handler.reply(b"", 302, Location=f"http://localhost:{handler.server.server_port}/a.jpg")


_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'

_ROUTES: dict[str, Callable[[_Handler], None]] = {
    "/404.jpg": _status(404),
    "/410.jpg": _status(410),
    "/429.jpg": _status(429, Retry_After="1"),
    "/503-once.jpg": _busy_once,
    "/reset.jpg": _Handler.reset,
    "/drip.jpg": _Handler.drip,
    "/endless.jpg": _Handler.endless,
    "/short.jpg": lambda handler: handler.reply(picture(1)[:500], length=len(picture(1))),
    "/long.jpg": lambda handler: handler.reply(picture(1), length=900),
    "/html.jpg": _body(lambda: b"<!DOCTYPE html><title>Sorry</title>"),
    "/cut.jpg": _body(lambda: picture(2)[:700]),
    "/bomb.png": _body(pixel_bomb, Content_Type="image/png"),
    "/scans.jpg": _body(scan_bomb),
    "/moving.gif": _body(lambda: picture(4, "GIF", save_all=True, append_images=[Image.new("RGB", (96, 64), "red")])),
    "/drawing.svg": _body(lambda: _SVG, Content_Type="image/svg+xml"),
    "/cmyk.jpg": _body(lambda: picture(5, mode="CMYK")),
    "/deep.png": _body(lambda: picture(6, "PNG", "I;16")),
    "/loop.jpg": _status(302, Location="/loop.jpg"),
    "/to-private.jpg": _inward,
    "/to-file.jpg": _status(302, Location="file:///etc/hostname"),
    "/bücher/日本.jpg": _body(lambda: picture(7)),
    "/noai.jpg": _body(lambda: picture(8), X_Robots_Tag="noai"),
    "/a/same.jpg": _body(lambda: picture(9)),
    "/b/same.jpg": _body(lambda: picture(10)),
    "/a.jpg": _body(lambda: picture(11)),
    "/private/a.jpg": _body(lambda: picture(12)),
    "/robots.txt": _body(lambda: b"User-agent: *\nDisallow: /private/\n", Content_Type="text/plain"),
}


class EvilNames:
    """Name lookups: `inward.example` is 127.0.0.1, `turning.example` is public the first time and 127.0.0.1 then."""

    def __init__(self) -> None:
        self._asked, self._real, self._connect = Counter[str](), socket.getaddrinfo, socket.create_connection
        self.connected: list[str] = []

    def getaddrinfo(self, host: str, port: Any, *arguments: Any, **named: Any) -> Any:
        """Stands for socket.getaddrinfo."""
        self._asked[host] += 1
        if host == "inward.example" or (host == "turning.example" and self._asked[host] > 1):
            host = "127.0.0.1"
        elif host == "turning.example":
            host = PUBLIC
        return self._real(host, port, *arguments, **named)

    def create_connection(self, address: tuple[str, int], *arguments: Any, **named: Any) -> socket.socket:
        """Stands for socket.create_connection; nothing connects to the open Internet."""
        self.connected.append(address[0])
        if address[0] == PUBLIC:
            raise ConnectionRefusedError(111, "Connection refused")
        return self._connect(address, *arguments, **named)


@contextmanager
def evil_server(**settings: Any) -> Iterator[EvilServer]:
    """The server, answering while the body runs."""
    server = EvilServer(**settings)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
