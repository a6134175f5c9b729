"""Fetches one URL, with limits on time, bytes, redirects and the addresses that may be reached."""

from __future__ import annotations

import http.client
import random
import re
import ssl
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from blip_bootstrap.config import DownloadConfig
from blip_pipelines.fetch.addresses import literal
from blip_pipelines.fetch.answers import Accept, Fetched, Seen, accept, accept_text
from blip_pipelines.fetch.connection import CheckedConnection, refused_by
from blip_pipelines.fetch.deadlines import Deadline, FetchError
from blip_pipelines.fetch.directives import Said
from blip_pipelines.fetch.kept import Connections, Peer
from blip_pipelines.fetch.proxies import Proxies, Proxy, basic_authorization

MAX_REDIRECTS = 5

BACK_OFF_S = 0.5

REDIRECTS = (301, 302, 303, 307, 308)

HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._~-]+)?")


class Gate(Protocol):
    """Decides whether a URL may be asked."""

    def passing(self, parts: SplitResult, hop: int, deadline: Deadline) -> AbstractContextManager[Said]:
        """A context in which the URL may be asked, the `hop`-th redirect (0: the URL itself); and what was said of it.

        Raises FetchError where it may not.
        """


class OpenGate:
    """Lets every URL pass."""

    def passing(self, parts: SplitResult, hop: int, deadline: Deadline) -> AbstractContextManager[Said]:
        """A context that does nothing."""
        return nullcontext(Said())


# img2dataset's own download_image is not used: its urlopen reads file:// URLs, follows redirects into private
# networks, reads bodies of any length, and applies its timeout to each read, so that a body that drips never ends.
def fetch(
    url: str,
    config: DownloadConfig,
    own_hosts: frozenset[str] = frozenset(),
    proxies: Proxies | None = None,
    kept: Connections | None = None,
) -> Fetched:
    """Fetch `url` with retries; a failure of the web is returned, not raised.

    Each try has `config.timeout_s` for everything, name lookup and redirects included. `own_hosts` ("127.0.0.1:8765")
    are this run's own servers: they may be private, and are reached without a proxy; all others through `proxies`
    (None: those of the environment). `kept` are open connections, which are used and added to; None: each request has
    its own.
    Raises InputError where the environment names a proxy that cannot be used.
    """
    if proxies is None:
        proxies = Proxies.of_environment() if config.use_proxies else Proxies()
    for attempt in range(config.num_retries + 1):
        fetched = try_once(url, config, own_hosts, proxies, kept=None if attempt else kept)
        if not fetched.retry or attempt == config.num_retries:
            break
        time.sleep(min(config.timeout_s, pause_s(attempt, fetched.wait_s)))
    return fetched


def pause_s(attempt: int, asked_s: float) -> float:
    """Seconds before the next try: doubled each time, with jitter, or the server's Retry-After if longer."""
    back_off_s: float = BACK_OFF_S * 2**attempt * random.uniform(0.8, 1.2)
    return max(asked_s, back_off_s)


def try_once(
    url: str,
    config: DownloadConfig,
    own_hosts: frozenset[str],
    proxies: Proxies,
    gate: Gate | None = None,
    kept: Connections | None = None,
) -> Fetched:
    """One try at `url`, as `fetch` says, through the `gate`; a failure of the web is returned, not raised."""
    seen = Seen()
    try:
        fetched = _fetch_once(url.strip(), own_hosts, proxies, gate or OpenGate(), Asking(config, accept, seen, kept))
    except FetchError as error:
        fetched = Fetched(None, "", error.error_class, error.message, retry=error.retry, wait_s=error.wait_s)
        seen.said = (error.said or Said()).over(seen.said)
    return replace(fetched, http_status=seen.http_status, said=seen.said)


def fetch_text(
    url: str, config: DownloadConfig, own_hosts: frozenset[str], proxies: Proxies
) -> tuple[int | None, str | None]:
    """The status and text of a small file about a site, cut at MAX_TEXT_BYTES; the text is None where there is none.

    Raises FetchError.
    """
    seen = Seen()
    fetched = _fetch_once(url, own_hosts, proxies, OpenGate(), Asking(config, accept_text, seen))
    return seen.http_status, None if fetched.body is None else fetched.body.decode("utf-8-sig", "replace")


@dataclass(frozen=True)
class Asking:
    """How a URL is asked: what is taken of the answer, what is noted of it, and the open connections, if any."""

    config: DownloadConfig
    take: Accept
    seen: Seen
    kept: Connections | None = None


def _fetch_once(url: str, own_hosts: frozenset[str], proxies: Proxies, gate: Gate, asking: Asking) -> Fetched:
    deadline, seen = Deadline.after(asking.config.timeout_s), asking.seen
    for hop in range(MAX_REDIRECTS + 1):
        parts = split(url)
        seen.http_status = None
        with gate.passing(parts, hop, deadline) as said:
            seen.said = said.over(seen.said)
            if not hop:
                deadline = Deadline.after(asking.config.timeout_s)  # what the gate took is not the server's
            try:
                peer = _peer(parts, asking.config, own_hosts, proxies)
                answer = _answer(parts, peer, asking, deadline)
            except (http.client.HTTPException, OSError, ValueError) as error:
                raise _as_fetch_error(error, parts, deadline) from error
        if isinstance(answer, Fetched):
            return answer
        url = _target(url, *answer)
    raise FetchError("too_many_redirects", f"more than {MAX_REDIRECTS} redirects, the last to {url[:200]}")


def _answer(parts: SplitResult, peer: Peer, asking: Asking, deadline: Deadline) -> Fetched | tuple[str, str]:
    """What one request gives: the body, or the status and Location of a redirect."""
    with CheckedConnection(peer, deadline, asking.kept) as connection:
        try:
            response = _ask(connection, parts, asking.config, keep=asking.kept is not None)
        except (http.client.HTTPException, ConnectionError):
            if not connection.is_used:
                raise
            response = None
        if response:
            return _read(connection, response, asking)
    # The server has ended the connection between two requests.
    with CheckedConnection(peer, deadline) as connection:
        return _read(connection, _ask(connection, parts, asking.config, keep=False), asking)


def _read(
    connection: CheckedConnection, response: http.client.HTTPResponse, asking: Asking
) -> Fetched | tuple[str, str]:
    asking.seen.http_status = response.status
    if response.status == 407 and connection.forwarder:
        raise refused_by(connection.forwarder, response)
    if response.status in REDIRECTS:
        return f"HTTP {response.status} {response.reason}", response.getheader("Location") or ""
    fetched = asking.take(response, asking.config, asking.seen)
    connection.keep(response)
    return fetched


def _target(url: str, status: str, given: str) -> str:
    """The URL that a redirect leads to. http.client decodes headers as Latin-1; most servers send UTF-8."""
    given = given.strip()
    if not given:
        raise FetchError("other", f"{status}, without a Location")
    try:
        location = given.encode("latin-1").decode("utf-8")
    except UnicodeError:
        location = given
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise FetchError("unsupported_scheme", f"redirected to {location[:80]!r}, not a URL ({error})") from error


def split(url: str) -> SplitResult:
    """The parts of a URL. Raises FetchError (unsupported_scheme) unless it is http or https and has a host."""
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError as error:
        raise FetchError("unsupported_scheme", f"not a URL ({error})") from error
    if parts.scheme not in ("http", "https") or not usable:
        raise FetchError("unsupported_scheme", f"only http and https are fetched, not {url[:80]!r}")
    return parts


def _peer(parts: SplitResult, config: DownloadConfig, own_hosts: frozenset[str], proxies: Proxies) -> Peer:
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    host = _ascii(parts)
    own = f"{parts.hostname}:{port}" in own_hosts
    proxy = None if own or not config.use_proxies else _proxy_of(proxies, parts.scheme, host, port)
    return Peer(secure, host, port, config.allow_private_addresses or own, proxy)


def _proxy_of(proxies: Proxies, scheme: str, host: str, port: int) -> Proxy | None:
    """The proxy for a host; none for this machine, which a proxy would take for itself."""
    if not proxies.of_scheme:
        return None
    numbers = literal(host)
    here = host == "localhost" or (numbers is not None and ip_address(numbers).is_loopback)
    return None if here else proxies.for_host(scheme, host, port)


def _ascii(parts: SplitResult) -> str:
    """The host as it is sent (IDNA, lower case). Raises FetchError where it is neither a host name nor an address."""
    host = parts.hostname or ""
    try:
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise FetchError("dns", f"{host!r} is not a host name ({error})") from error
    if not HOST.fullmatch(host):
        raise FetchError("unsupported_scheme", f"{host[:80]!r} is not a host name")
    return host.lower()


def _ask(
    connection: CheckedConnection, parts: SplitResult, config: DownloadConfig, *, keep: bool
) -> http.client.HTTPResponse:
    path = quote(parts.path or "/", safe="/%:=&?~#+!$,;'@()*[]") + ("?" + _quoted_query(parts) if parts.query else "")
    headers = {
        "User-Agent": config.agent,
        "Accept": "image/*,*/*;q=0.5",
        "Accept-Encoding": "identity",
        **({} if keep else {"Connection": "close"}),
    }
    if user := basic_authorization(parts):
        headers["Authorization"] = user
    if connection.forwarder:
        host = f"[{connection.host}]" if ":" in connection.host else connection.host
        path = f"http://{host}{'' if connection.port == 80 else f':{connection.port}'}{path}"
        headers |= connection.forwarder.headers
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def _quoted_query(parts: SplitResult) -> str:
    return quote(parts.query, safe="/%:=&?~+!$,;'@()*[]|")


def _as_fetch_error(error: Exception, parts: SplitResult, deadline: Deadline) -> FetchError:
    """An exception of http.client, ssl or socket as a FetchError."""
    if isinstance(error, TimeoutError):
        return FetchError("timeout", f"no whole answer within {deadline.timeout_s:g} s", retry=True)
    certificate = isinstance(error, ssl.SSLCertVerificationError)
    what = " ".join(str(error).split()) or type(error).__name__  # a server's own words, where it speaks no HTTP
    return FetchError("connection", f"{parts.hostname}: {what}", retry=not certificate)
