"""Serves a folder of local pictures over HTTP on 127.0.0.1, so that they are downloaded like those of the web."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException, RemoteDisconnected
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from blip_bootstrap.errors import InputError, RunFailed
from blip_bootstrap.progress import tell

IDLE_S = 60.0
"""Seconds after which the thread of a silent connection ends."""

POLL_S = 0.2
"""Seconds between two tries to open a port at which another run serves."""

CLOSED_TRIES = 25
"""Tries at a port that is taken, and where nobody answers: another run's server may be on its way out."""

ANSWER_S = 10.0
"""Seconds in which a server at the port has to tell its name; one of another run may be busy."""

OURS = "blip-bootstrap"
"""What these servers call themselves in their answers."""


_here: set[int] = set()
"""Ports at which this process serves: waiting for one of them would never end."""


class _QuietHandler(SimpleHTTPRequestHandler):
    timeout = IDLE_S
    server_version, sys_version = OURS, ""

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

    Where another run serves at this port, as another seed of an experiment, it waits until that one is done: the port
    is part of the URLs in the tables. Raises InputError where there is no such folder, RunFailed where something else
    has the port.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder to serve")
    server = _opened(folder, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    _here.add(server.server_port)
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        _here.discard(server.server_port)
        server.shutdown()
        server.server_close()
        thread.join()


def _opened(folder: Path, port: int) -> _Server:
    """A server that has the port, as soon as no other run serves there."""
    closed, is_told = 0, False
    while True:
        try:
            return _Server(("127.0.0.1", port), partial(_QuietHandler, directory=str(folder)))
        except OSError as error:
            name = _name_at(port) if error.errno == errno.EADDRINUSE and port not in _here else None
            closed = closed + 1 if name == "" else 0
            is_leaving = 0 < closed < CLOSED_TRIES
            if name is None or not (is_leaving or name.startswith(OURS)):
                why = f"port {port} cannot be opened ({error.strerror}); set serve_port to a free one"
                raise RunFailed(why) from error
        if name and not is_told:
            tell(f"port {port}: another run serves its pictures there; waiting until it is done")
            is_told = True
        time.sleep(POLL_S)


def _name_at(port: int) -> str | None:
    """What the server at a port calls itself; "" where nobody listens (any more), None where no name is told."""
    connection = HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("HEAD", "/.blip-bootstrap")  # a name that is not there: a folder would be listed
        return connection.getresponse().getheader("Server") or None
    except (ConnectionRefusedError, ConnectionResetError, RemoteDisconnected):
        return ""
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
