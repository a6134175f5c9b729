"""A folder of local pictures over loopback HTTP, so that they go the same way as the web's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from blip_bootstrap.errors import InputError, RunFailed

IDLE_S = 60.0
"""How long a connection may say nothing before its thread ends."""


class _QuietHandler(SimpleHTTPRequestHandler):
    timeout = IDLE_S

    def log_message(self, format: str, *args: object) -> None:
        """Not a line for each picture."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # many fetchers connect at once; with the default of 5 some wait a second for a retry

    def handle_error(self, request: object, client_address: object) -> None:
        """A fetcher that hangs up in the middle is its own counted row."""


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
