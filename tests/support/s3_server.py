"""A loopback server that speaks a little S3: a folder is a bucket, listing, HEAD, ranged GET, and small PUTs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the folders of `folder` as buckets; the endpoint, and the list of requests so far as `METHOD path`."""
    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_of(folder, asked)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def listing(bucket: Path, prefix: str) -> bytes:
    """ListObjectsV2 without a delimiter."""
    files = sorted(path for path in bucket.rglob("*") if path.is_file())
    found = [path for path in files if str(path.relative_to(bucket)).startswith(prefix)]
    items = "".join(
        f"<Contents><Key>{escape(str(path.relative_to(bucket)))}</Key><Size>{path.stat().st_size}</Size>"
        "<LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents>"
        for path in found
    )
    head = f"<Name>{bucket.name}</Name><KeyCount>{len(found)}</KeyCount><IsTruncated>false</IsTruncated>"
    return f'<?xml version="1.0"?><ListBucketResult>{head}{items}</ListBucketResult>'.encode()


def handler_of(folder: Path, asked: list[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_PUT(self) -> None:
            asked.append(f"{self.command} {self.path}")
            path = folder / unquote(urlsplit(self.path).path).strip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(200, b"")

        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            url = urlsplit(self.path)
            path = folder / unquote(url.path).strip("/")
            settings = parse_qs(url.query)
            if "list-type" in settings and path.is_dir():
                self._send(200, listing(path, settings.get("prefix", [""])[0]))
            elif path.is_file():
                self._send_file(path)
            else:
                self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")

        def _send_file(self, path: Path) -> None:
            content, span = path.read_bytes(), self.headers.get("Range")
            if not span:
                return self._send(200, content)
            first, last = span.removeprefix("bytes=").split("-")
            end = min(int(last), len(content) - 1)
            more = {"Content-Range": f"bytes {first}-{end}/{len(content)}"}
            return self._send(206, content[int(first) : end + 1], more)

        def _send(self, code: int, content: bytes, more: dict[str, str] | None = None) -> None:
            self.send_response(code)
            head = {"Content-Length": str(len(content)), "Last-Modified": formatdate(1.7e9, usegmt=True), "ETag": '"1"'}
            for name, value in (head | (more or {})).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """No line for each request."""

    return Handler
