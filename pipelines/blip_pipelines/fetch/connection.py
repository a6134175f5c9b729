"""HTTP connections with a deadline, to addresses that were checked, directly or through a proxy."""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
from functools import cache
from typing import Any

from blip_pipelines.fetch.addresses import is_private_name, is_public, literal, resolve
from blip_pipelines.fetch.deadlines import Deadline, FetchError
from blip_pipelines.fetch.kept import Connections, Peer
from blip_pipelines.fetch.proxies import Proxy

LOOKUP_S = 1.0
"""Seconds to look up a name here that the proxy will look up again; never more than half of the time left."""


class _TimedSocket:
    """The part of a socket that http.client uses, under a deadline.

    The socket does not block: what waits is one `poll` with the time left, and only where there is something to wait
    for. `settimeout` before each read would be three calls of the system instead of one.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        sock.setblocking(False)
        self._sock, self._deadline, self._asked = sock, deadline, False
        self.reader: _Buffered | None = None

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait(select.POLLOUT)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN)
        self._asked = True

    def recv_into(self, buffer: Any) -> int:
        if self._asked and not isinstance(self._sock, ssl.SSLSocket):
            self._wait(select.POLLIN)  # the answer is not there yet
        self._asked = False
        while True:
            self._deadline.remaining_s()
            try:
                return self._sock.recv_into(buffer)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait(select.POLLIN)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT)

    def _wait(self, event: int) -> None:
        """Wait until the socket is ready. Raises FetchError (timeout) at the deadline."""
        poll = select.poll()
        poll.register(self._sock, event)
        while not poll.poll(self._deadline.remaining_s() * 1000):
            pass

    def makefile(self, mode: str) -> io.BufferedReader:
        self.reader = _Buffered(_TimedReader(self), 65_536)
        return self.reader

    def close(self) -> None:
        """Do nothing: http.client closes its socket once it has the headers, before the body is read."""


class _TimedReader(io.RawIOBase):
    """Reads a socket within its deadline, so that a slow body ends in time."""

    def __init__(self, sock: _TimedSocket) -> None:
        self._sock, self.ended = sock, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return 0 if self.ended else self._sock.recv_into(buffer)


class _Buffered(io.BufferedReader):
    """Buffers a socket, and stays open where http.client closes it: at the end of an answer, before it is asked more.

    What follows the answer in the buffer was never asked for.
    """

    raw: _TimedReader

    def close(self) -> None:
        pass

    def has_more(self) -> bool:
        """Whether bytes are buffered; nothing is read."""
        self.raw.ended = True
        return bool(self.peek(1))


class CheckedConnection(http.client.HTTPConnection):
    """A connection to `host`, whose name is resolved once, and whose addresses are checked before one is used.

    A second lookup for the connection could answer with another address (DNS rebinding). A proxy does its own lookup;
    there the name is checked, and the addresses that it resolves to here. With `kept`, an open connection to the same
    peer is used where there is one (`is_used`), and what `keep` is called on is kept there.
    """

    def __init__(self, peer: Peer, deadline: Deadline, kept: Connections | None = None) -> None:
        super().__init__(peer.host, peer.port)
        self.default_port = 443 if peer.secure else 80  # the Host header names any other
        self._peer, self._secure, self._allow_private = peer, peer.secure, peer.allow_private
        self._proxy, self._deadline, self._kept = peer.proxy, deadline, kept
        self._raw = kept.take(peer) if kept else None
        self.is_used = self._raw is not None
        if self._raw:
            self.sock = _TimedSocket(self._raw, deadline)

    def keep(self, answer: http.client.HTTPResponse) -> None:
        """Leave the connection to the next request, unless the server ends it or has sent more than the answer.

        The answer must have been read to its end.
        """
        reader = self.sock.reader if isinstance(self.sock, _TimedSocket) else None
        if self._kept and self._raw and reader and not (answer.will_close or reader.has_more()):
            self._kept.put(self._peer, self._raw)
            self._raw = None

    def __enter__(self) -> CheckedConnection:
        return self

    def __exit__(self, *_: object) -> None:
        if self._raw:
            self._raw.close()

    @property
    def forwarder(self) -> Proxy | None:
        """The proxy that gets the request for an http URL; None for https, which tunnels through it, or without one."""
        return None if self._secure else self._proxy

    def connect(self) -> None:
        """Open the connection. Raises FetchError: private_address, dns, connection, timeout or proxy."""
        if self._proxy:
            self._raw = self._through(self._proxy)
        else:
            addresses = resolve(self.host, self.port, self._allow_private, self._deadline)
            self._raw = self._first_that_answers(addresses, self.port)
        if self._secure:
            self._raw.settimeout(self._deadline.remaining_s())
            self._raw = _tls().wrap_socket(self._raw, server_hostname=self.host)
        self.sock = _TimedSocket(self._raw, self._deadline)

    def _first_that_answers(self, addresses: list[str], port: int) -> socket.socket:
        refusal: OSError | None = None
        for address in addresses:
            try:
                return socket.create_connection((address, port), timeout=self._deadline.remaining_s())
            except OSError as error:
                refusal = error
        if isinstance(refusal, TimeoutError):
            raise FetchError("timeout", f"{self.host} does not answer", retry=True) from refusal
        raise FetchError("connection", f"{self.host}: {refusal}", retry=True) from refusal

    def _through(self, proxy: Proxy) -> socket.socket:
        """A connection to the proxy; for https it is a tunnel through the proxy to the server."""
        if not self._allow_private:
            check_by_name(self.host, self.port, self._deadline)
        try:
            addresses = resolve(proxy.host, proxy.port, True, self._deadline)
            self._raw = self._first_that_answers(addresses, proxy.port)
        except FetchError as error:
            raise FetchError("proxy", f"{proxy.host}:{proxy.port}: {error.message}", retry=error.retry) from error
        if self._secure:
            self._open_tunnel(self._raw, proxy)
        return self._raw

    def _open_tunnel(self, raw: socket.socket, proxy: Proxy) -> None:
        where = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}", *(f"{n}: {v}" for n, v in proxy.headers.items())]
        sock: Any = _TimedSocket(raw, self._deadline)
        sock.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii"))
        answer = http.client.HTTPResponse(sock, method="CONNECT")
        answer.begin()
        if answer.status != 200:
            raise refused_by(proxy, answer)


def refused_by(proxy: Proxy, answer: http.client.HTTPResponse) -> FetchError:
    """The error of a proxy's refusal: `proxy` for 407, where it wants a password, else `connection` to the server."""
    status = f"{proxy.host}:{proxy.port}: HTTP {answer.status} {answer.reason}".strip()
    if answer.status == 407:
        return FetchError("proxy", f"{status}; it wants http://user:password@{proxy.host}:{proxy.port}")
    return FetchError("connection", f"proxy {status}", retry=answer.status >= 500)


def check_by_name(host: str, port: int, deadline: Deadline) -> None:
    """Check a host that a proxy will look up. Raises FetchError (private_address) where it is not public.

    That is by its IP address, its name, or what the name resolves to here. A name that does not resolve here passes:
    machines behind a proxy often have no public name server, and refusing private addresses is then up to the proxy.
    """
    numbers = literal(host)
    if numbers is not None:
        if not is_public(numbers):
            raise FetchError("private_address", f"{host} is {numbers}, which is not a public address")
        return
    last = host.rstrip(".").rpartition(".")[2]
    if is_private_name(host) or "." not in host.strip(".") or last.isdecimal() or last.startswith("0x"):
        raise FetchError("private_address", f"{host} is no name of the open Internet")
    try:
        resolve(host, port, False, deadline.sooner(min(LOOKUP_S, deadline.remaining_s() / 2)))
    except FetchError as error:
        if error.error_class == "private_address":
            raise


@cache
def _tls() -> ssl.SSLContext:
    """One context for all connections: reading the system's certificates takes some 20 ms."""
    return ssl.create_default_context()
