"""Connections that are kept open for the next request to their host."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from blip_pipelines.fetch.proxies import Proxy

IDLE_S = 15.0
"""Seconds for which an unused connection is kept; many servers end theirs after 5 to 60."""

FRESH_S = 0.5
"""Seconds for which a connection is taken to be open still, without asking the system."""

MAX_IDLE = 256
"""The most unused connections, all hosts together; the one unused for longest is closed first."""


@dataclass(frozen=True)
class Peer:
    """To whom a connection leads, and what was checked when it was opened.

    A connection that may lead to a private address is never used for a request that may not.
    """

    secure: bool
    host: str
    port: int
    allow_private: bool
    proxy: Proxy | None


class Connections:
    """The unused connections of one download, for any number of threads; closed when its `with` block ends.

    The address of a connection was checked when it was opened, so that using it again needs neither a name lookup nor
    a check. A process forked from this one starts without any.
    """

    def __init__(self) -> None:
        self._lock, self._pid, self._closed = threading.Lock(), os.getpid(), False
        self._idle: dict[Peer, deque[tuple[float, socket.socket]]] = {}
        self._num_idle = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._closed = True
            while self._idle:
                self._drop_oldest()

    def take(self, peer: Peer) -> socket.socket | None:
        """An open connection to `peer`, now the caller's, or None."""
        while (found := self._pop(peer)) is not None:
            since, sock = found
            idle_s = time.monotonic() - since
            if idle_s < FRESH_S or (idle_s < IDLE_S and not _has_news(sock)):
                return sock
            sock.close()
        return None

    def put(self, peer: Peer, sock: socket.socket) -> None:
        """Keep a connection whose last answer was read to its end."""
        with self._lock:
            if self._closed or os.getpid() != self._pid:
                sock.close()
                return
            self._idle.setdefault(peer, deque()).append((time.monotonic(), sock))
            self._num_idle += 1
            if self._num_idle > MAX_IDLE:
                self._drop_oldest()

    def _pop(self, peer: Peer) -> tuple[float, socket.socket] | None:
        """The connection to `peer` that was used last: the likeliest to be open still."""
        with self._lock:
            idle = self._idle.get(peer)
            if not idle or os.getpid() != self._pid:
                return None
            self._num_idle -= 1
            found = idle.pop()
            if not idle:
                del self._idle[peer]
            return found

    def _drop_oldest(self) -> None:
        peer = min(self._idle, key=lambda one: self._idle[one][0][0])
        self._idle[peer].popleft()[1].close()
        self._num_idle -= 1
        if not self._idle[peer]:
            del self._idle[peer]


def _has_news(sock: socket.socket) -> bool:
    """Whether an unused connection was ended by the server, or has bytes that nobody asked for."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
