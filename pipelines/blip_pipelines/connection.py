"""HTTP connections that end at a deadline and reach only addresses that were checked."""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import ssl
import time
from dataclasses import dataclass
from functools import cache
from typing import Any


class FetchError(Exception):
    """A fetch that failed: its error class, whether it is worth another try, and how long the server asks to wait."""

    def __init__(self, error_class: str, message: str, retry: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.error_class, self.message, self.retry, self.wait_s = error_class, message, retry, wait_s


@dataclass(frozen=True)
class Deadline:
    """A moment after which everything times out."""

    timeout_s: float
    end: float

    @classmethod
    def after(cls, timeout_s: float) -> Deadline:
        """The deadline `timeout_s` from now."""
        return cls(timeout_s, time.monotonic() + timeout_s)

    def remaining_s(self) -> float:
        """Seconds left, above 0. Raises FetchError (timeout) where there are none."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise FetchError("timeout", f"no whole answer within {self.timeout_s:g} s", retry=True)
        return left


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
    """

    def __init__(self, host: str, port: int, *, secure: bool, allow_private: bool, deadline: Deadline) -> None:
        super().__init__(host, port)
        self._secure, self._allow_private, self._deadline = secure, allow_private, deadline
        self._raw: socket.socket | None = None

    def __enter__(self) -> CheckedConnection:
        return self

    def __exit__(self, *_: object) -> None:
        if self._raw:
            self._raw.close()

    def connect(self) -> None:
        """Raises FetchError: private_address, dns, connection or timeout."""
        self._raw = self._first_that_answers(resolve(self.host, self.port, self._allow_private))
        if self._secure:
            self._raw.settimeout(self._deadline.remaining_s())
            self._raw = _tls().wrap_socket(self._raw, server_hostname=self.host)
        self.sock = _TimedSocket(self._raw, self._deadline)

    def _first_that_answers(self, addresses: list[str]) -> socket.socket:
        refusal: OSError | None = None
        for address in addresses:
            try:
                return socket.create_connection((address, self.port), timeout=self._deadline.remaining_s())
            except OSError as error:
                refusal = error
        if isinstance(refusal, TimeoutError):
            raise FetchError("timeout", f"{self.host} does not answer", retry=True) from refusal
        raise FetchError("connection", f"{self.host}: {refusal}", retry=True) from refusal


def resolve(host: str, port: int, allow_private: bool) -> list[str]:
    """The addresses of `host`. Raises FetchError: dns, or private_address where one of them is not public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        again = getattr(error, "errno", None) == socket.EAI_AGAIN
        raise FetchError("dns", f"{host}: {getattr(error, 'strerror', error)}", retry=again) from error
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    for address in addresses:
        if not (allow_private or is_public(address)):
            raise FetchError("private_address", f"{host} is {address}, which is not a public address")
    return addresses


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open Internet, also where an IPv6 address wraps an IPv4 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1]) or _nat64(ip)
        if inner:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def _nat64(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    network = ipaddress.IPv6Network("64:ff9b::/96")
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in network else None


@cache
def _tls() -> ssl.SSLContext:
    """One context for all connections: reading the system's certificates takes some 20 ms."""
    return ssl.create_default_context()
