"""Serves a folder of local pictures over HTTP on 127.0.0.1, so that they are downloaded like those of the web."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from blip_bootstrap.errors import InputError, RunFailed

IDLE_S = 60.0
"""Seconds after which the thread of a silent connection ends."""


class _QuietHandler(SimpleHTTPRequestHandler):
    timeout = IDLE_S

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing, where the base class prints a line for each request."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # many fetchers connect at once; with the default of 5 some wait a second for a retry

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a fetch that breaks off is a row with its error class."""


@contextmanager
def serve_folder(folder: Path, port: int) -> Iterator[str]:
    """Serve `folder` on 127.0.0.1:`port` while the body runs; yields "127.0.0.1:PORT" (0 picks a free port).

    Raises InputError where there is no such folder, RunFailed where the port is taken.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder to serve")
    try:
        server = _Server(("127.0.0.1", port), partial(_QuietHandler, directory=str(folder)))
    except OSError as error:
        raise RunFailed(f"port {port} cannot be opened ({error.strerror}); set serve_port to a free one") from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
