"""HTTP connections that end at a deadline and reach only addresses that were checked, through a proxy or without."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
from functools import cache
from typing import Any

from blip_pipelines.ingest.addresses import is_private_name, is_public, literal, resolve
from blip_pipelines.ingest.deadlines import Deadline, FetchError
from blip_pipelines.ingest.proxies import Proxy

LOOKUP_S = 1.0
"""How long a name is looked up here where a proxy will look it up again; half of the time left at most."""


class _TimedReader(io.RawIOBase):
    """Reads a socket; each read may last until the deadline, so that a body in drops cannot outlast it."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock, self._deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._deadline.remaining_s())
        return self._sock.recv_into(buffer)


class _TimedSocket:
    """The part of a socket that http.client uses, under a deadline."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock, self._deadline = sock, deadline

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._deadline.remaining_s())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._deadline), 65_536)

    def close(self) -> None:
        """Nothing: http.client closes its socket as soon as it has the headers, while the body is still to be read."""


class CheckedConnection(http.client.HTTPConnection):
    """One connection to `host`: the name is resolved once, each address is judged, and that address is connected to.

    Resolving again for the connection would let a name server answer differently the second time (DNS rebinding).
    Through a proxy the name is judged, and the addresses that it has here; the proxy resolves it anew.
    """

    def __init__(
        self, host: str, port: int, *, secure: bool, allow_private: bool, deadline: Deadline, proxy: Proxy | None = None
    ) -> None:
        super().__init__(host, port)
        self.default_port = 443 if secure else 80  # the Host header names any other
        self._secure, self._allow_private, self._deadline, self._proxy = secure, allow_private, deadline, proxy
        self._raw: socket.socket | None = None

    def __enter__(self) -> CheckedConnection:
        return self

    def __exit__(self, *_: object) -> None:
        if self._raw:
            self._raw.close()

    @property
    def forwarder(self) -> Proxy | None:
        """The proxy that is asked for the page itself, by its whole URL; None where the server is asked."""
        return None if self._secure else self._proxy

    def connect(self) -> None:
        """Raises FetchError: private_address, dns, connection, timeout or proxy."""
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
        """A connection to the proxy, for https one through it to the server."""
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
    """What a proxy's own refusal means: 407 is about us, the others are about the server that it cannot reach."""
    status = f"{proxy.host}:{proxy.port}: HTTP {answer.status} {answer.reason}".strip()
    if answer.status == 407:
        return FetchError("proxy", f"{status}; it wants http://user:password@{proxy.host}:{proxy.port}")
    return FetchError("connection", f"proxy {status}", retry=answer.status >= 500)


def check_by_name(host: str, port: int, deadline: Deadline) -> None:
    """Judge a host that a proxy will look up. Raises FetchError (private_address) where it is not public by its
    numbers, by its name, or by the addresses that it has here. A name that is not known here passes: a machine behind
    a proxy often has no name server of the Internet, and what lies behind the name is then the proxy's to refuse.
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
