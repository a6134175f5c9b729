"""The web of the demo: an HTTP server on loopback that serves pictures, and fails as servers of the web do."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from blip_bootstrap.errors import RunFailed

MANNERS = ("ok", "missing", "busy", "down", "page", "cut", "slow", "stalled")
"""The first folder of a URL's path says how it answers, in this order: the picture; 404; 503 once, then the picture;
503 always; an HTML page; a truncated picture; the picture slowly, in pieces; half of the picture and then nothing."""

HOST = "127.0.0.1"

_SLOW_PIECES, _SLOW_PAUSE_S = 5, 0.1

_STALLED_S = 60.0

IDLE_S = 60.0
"""How long a connection may be idle before its thread ends."""

_PAGE = b"<!doctype html><html><head><title>Gone</title></head><body>This picture has moved.</body></html>"


def url_of(port: int, manner: str, name: str) -> str:
    """The URL of picture `name` that answers in `manner`, one of MANNERS."""
    return f"http://{HOST}:{port}/{manner}/{name}"


class WorldServer:
    """Serves a folder of pictures on a loopback port while its `with` block lasts; `port` 0 takes a free one.

    Raises RunFailed on entering where the port is taken.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder, self.port = folder, port
        self.stop = threading.Event()
        self._busy_once: set[str] = set()
        self._lock = threading.Lock()
        self._server: _Server | None = None

    def __enter__(self) -> WorldServer:
        try:
            self._server = _Server((HOST, self.port), self)
        except OSError as error:
            raise RunFailed(f"{HOST}:{self.port}: cannot serve the demo's pictures there ({error.strerror})") from error
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def first_time(self, path: str) -> bool:
        """Whether this path is requested for the first time."""
        with self._lock:
            known = path in self._busy_once
            self._busy_once.add(path)
            return not known


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], world: WorldServer) -> None:
        self.world = world
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a client that runs into its time-out closes the connection."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = IDLE_S

    def do_GET(self) -> None:
        manner, _, name = self.path.lstrip("/").partition("/")
        file = self.server.world.folder / Path(name).name
        if manner not in MANNERS or manner == "missing" or not name or not file.is_file():
            self._answer(404, b"not found", "text/plain")
        elif manner == "down" or (manner == "busy" and self.server.world.first_time(self.path)):
            self._answer(503, b"busy", "text/plain")
        elif manner == "page":
            self._answer(200, _PAGE, "text/html; charset=utf-8")
        else:
            self._picture(manner, file.read_bytes())

    def _picture(self, manner: str, data: bytes) -> None:
        if manner == "cut":
            self._answer(200, data[: len(data) * 6 // 10], "image/jpeg")
        elif manner in ("slow", "stalled"):
            self._head(200, len(data), "image/jpeg")
            self._drip(data, manner == "stalled")
        else:
            self._answer(200, data, "image/jpeg")

    def _drip(self, data: bytes, stalled: bool) -> None:
        """Send the body in pieces with pauses; a stalled one waits after half of them."""
        stop, size = self.server.world.stop, -(-len(data) // _SLOW_PIECES)
        for number in range(_SLOW_PIECES):
            if stalled and number > _SLOW_PIECES // 2:
                stop.wait(_STALLED_S)
                return
            self.wfile.write(data[number * size : (number + 1) * size])
            stop.wait(_SLOW_PAUSE_S)

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self._head(status, len(body), content_type)
        self.wfile.write(body)

    def _head(self, status: int, length: int, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing for a request: the downloader counts them."""
