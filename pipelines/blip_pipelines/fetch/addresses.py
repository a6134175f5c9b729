"""Resolves host names within a deadline, and refuses addresses that are not on the public Internet."""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
import time
from concurrent.futures import Future

from blip_pipelines.fetch.deadlines import Deadline, FetchError

MAX_LOOKUPS = 256
"""The most name lookups at a time, timed-out ones included: a silent name server holds each for some 30 s, and Python
cannot cancel a lookup."""

NOT_PUBLIC_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's own services, on a number that looks public
    )
)  # fmt: skip
"""IPv4 ranges that are not public: "this network", private, carrier-grade NAT, loopback, link-local, protocol
assignments, documentation, benchmarks, multicast, reserved. Listed here because Python's list differs by release."""

PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
"""IPv6 global unicast; loopback, private, site-local, multicast and tunnel ranges lie outside of it."""

NOT_PUBLIC_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001:2::/48", "2001:3::/32", "2001:4:112::/48", "2001:10::/28", "2001:20::/28", "2001:30::/28",
        "2001:db8::/32", "3fff::/20", "3ffe::/16",
    )
)  # fmt: skip
"""Ranges of `PUBLIC_V6` that are not public: benchmarks, AMT and AS112 anycast, ORCHID, documentation, 6bone."""

LOOKUP_KEPT_S, MAX_KEPT = 60.0, 10_000
"""Seconds for which a name's addresses are kept, as servers that move expect, and the most names. Python does not tell
how long a name server would have them kept."""

PRIVATE_NAMES = ("localhost", "local", "internal", "intranet", "lan", "corp", "home", "private", "localdomain",
                 "home.arpa", "metadata.goog", "cluster.local")  # fmt: skip
"""Last parts of host names in private networks, among them the metadata services of clouds."""

_LITERAL_V4 = re.compile(r"(?i)(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}")


def is_public(address: str) -> bool:
    """Whether an IP address ("::1", "fe80::1%eth0") is on the public Internet. Raises ValueError where it is none.

    An IPv6 address that wraps IPv4 ones (mapped, NAT64, 6to4, Teredo) is public where all of these are.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not any(ip in network for network in NOT_PUBLIC_V4)
    wrapped = _wrapped(ip)
    if wrapped:
        return all(is_public(str(one)) for one in wrapped)
    if ip not in PUBLIC_V6 or not ip.is_global or any(ip in network for network in NOT_PUBLIC_V6):
        return False
    isatap = (int(ip) >> 32) & 0xFCFFFFFF == 0x00005EFE  # ISATAP: its last 32 bits are an IPv4 address of the site
    return not isatap or is_public(str(_low(ip)))


def _wrapped(ip: ipaddress.IPv6Address) -> tuple[ipaddress.IPv4Address, ...]:
    """The IPv4 addresses inside an IPv6 address of a transition mechanism, which decide whether it is public; or none.

    Forms that are not routed on the Internet (`::a.b.c.d`, `::ffff:0:a.b.c.d`, `64:ff9b:1::/48`) are not unwrapped:
    they lie outside `PUBLIC_V6`.
    """
    if ip.ipv4_mapped:
        return (ip.ipv4_mapped,)
    if ip in ipaddress.IPv6Network("64:ff9b::/96"):
        return (_low(ip),)
    if ip.sixtofour:
        return (ip.sixtofour,)
    return ip.teredo or ()


def _low(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)


def is_private_name(host: str) -> bool:
    """Whether a host name is one of a private network, whatever it resolves to."""
    host = host.rstrip(".")
    return any(host == end or host.endswith(f".{end}") for end in PRIVATE_NAMES)


def literal(host: str) -> str | None:
    """The IP address that `host` is written as, odd spellings (`2130706433`, `0x7f.1`) included; None for a name."""
    bare = host.strip("[]").rstrip(".")
    try:
        return str(ipaddress.ip_address(bare.partition("%")[0]))
    except ValueError:
        pass
    if not _LITERAL_V4.fullmatch(bare):
        return None
    try:
        return socket.inet_ntoa(socket.inet_aton(bare))
    except OSError:
        return None


def resolve(host: str, port: int, allow_private: bool, deadline: Deadline) -> list[str]:
    """The IP addresses of `host`. Raises FetchError: dns, timeout at the deadline, or private_address.

    One address that is not public is enough to refuse the host, unless `allow_private`.
    """
    if not allow_private and is_private_name(host):
        raise FetchError("private_address", f"{host} is a name of a private network")
    numbers = None if "%" in host else literal(host)
    addresses = [numbers] if numbers else _lookup(host, port, deadline)
    for address in addresses:
        if not (allow_private or is_public(address)):
            raise FetchError("private_address", f"{host} is {address}, which is not a public address")
    return addresses


_begun: dict[tuple[str, int], Future[list[str]]] = {}

_known: dict[tuple[str, int], tuple[float, list[str]]] = {}
"""What lookups of this process found, and when; what failed is not kept."""

_lock = threading.Lock()

_free = threading.BoundedSemaphore(MAX_LOOKUPS)


def _lookup(host: str, port: int, deadline: Deadline) -> list[str]:
    """The addresses of a name: known for less than a minute, or looked up in a thread, abandoned at the deadline.

    Fetches that need the same name at the same time share one lookup.
    """
    known = _known.get((host, port))
    if known and time.monotonic() - known[0] < LOOKUP_KEPT_S:
        return known[1]
    late = FetchError("timeout", f"{host}: no name server answers within {deadline.timeout_s:g} s", retry=True)
    with _lock:
        lookup = _begun.get((host, port))
    if lookup is None:
        if not _free.acquire(timeout=deadline.remaining_s()):
            raise late
        lookup = _begin(host, port)
    try:
        return lookup.result(timeout=deadline.remaining_s())
    except TimeoutError as error:
        raise late from error
    except (socket.gaierror, UnicodeError) as error:
        again = getattr(error, "errno", None) == socket.EAI_AGAIN
        raise FetchError("dns", f"{host}: {getattr(error, 'strerror', None) or error}", retry=again) from error


def _begin(host: str, port: int) -> Future[list[str]]:
    """Start a lookup in a thread; it counts against MAX_LOOKUPS until it ends, also after its deadline."""
    lookup: Future[list[str]] = Future()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
            _keep(host, port, addresses)
            lookup.set_result(addresses)
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            lookup.set_exception(error)
        finally:
            with _lock:
                if _begun.get((host, port)) is lookup:
                    del _begun[host, port]
            _free.release()

    with _lock:
        _begun[host, port] = lookup
    threading.Thread(target=look_up, name=f"look up {host}", daemon=True).start()
    return lookup


def _keep(host: str, port: int, addresses: list[str]) -> None:
    with _lock:
        if len(_known) >= MAX_KEPT:
            _known.clear()
        _known[host, port] = time.monotonic(), addresses
