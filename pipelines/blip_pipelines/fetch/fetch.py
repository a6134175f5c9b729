"""Fetches one URL, with limits on time, bytes, redirects and the addresses that may be reached."""

from __future__ import annotations

import http.client
import random
import re
import ssl
import time
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from blip_bootstrap.config import DownloadConfig
from blip_pipelines.fetch.addresses import literal
from blip_pipelines.fetch.bodies import codings_of, unpack
from blip_pipelines.fetch.connection import CheckedConnection, refused_by
from blip_pipelines.fetch.deadlines import Deadline, FetchError
from blip_pipelines.fetch.kept import Connections, Peer
from blip_pipelines.fetch.proxies import Proxies, Proxy, basic_authorization

MAX_REDIRECTS = 5

BACK_OFF_S = 0.5

READ_BYTES = 65_536

REDIRECTS = (301, 302, 303, 307, 308)

HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._~-]+)?")

NOAI = frozenset(("noai", "noimageai"))

VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
"""X-Robots-Tag directives that have a value after a colon; any other word before a colon names a crawler."""


@dataclass(frozen=True)
class Fetched:
    """The result of one URL: the body, or the error class and message of the failure."""

    body: bytes | None
    content_type: str = ""
    error_class: str | None = None
    error_message: str | None = None


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
        try:
            return _fetch_once(url.strip(), config, own_hosts, proxies, None if attempt else kept)
        except FetchError as error:
            failure = error
        if not failure.retry or attempt == config.num_retries:
            break
        time.sleep(_pause_s(attempt, failure.wait_s, config.timeout_s))
    return Fetched(None, "", failure.error_class, failure.message)


def _pause_s(attempt: int, asked_s: float, at_most_s: float) -> float:
    """Seconds before the next try: doubled each time, with jitter, or the server's Retry-After if longer; capped."""
    back_off_s: float = BACK_OFF_S * 2**attempt * random.uniform(0.8, 1.2)
    return min(at_most_s, max(asked_s, back_off_s))


def _fetch_once(
    url: str, config: DownloadConfig, own_hosts: frozenset[str], proxies: Proxies, kept: Connections | None
) -> Fetched:
    deadline = Deadline.after(config.timeout_s)
    for _ in range(MAX_REDIRECTS + 1):
        parts = _split(url)
        try:
            peer = _peer(parts, config, own_hosts, proxies)
            answer = _answer(parts, peer, config, deadline, kept)
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise _as_fetch_error(error, parts, deadline) from error
        if isinstance(answer, Fetched):
            return answer
        url = _target(url, *answer)
    raise FetchError("too_many_redirects", f"more than {MAX_REDIRECTS} redirects, the last to {url[:200]}")


def _answer(
    parts: SplitResult, peer: Peer, config: DownloadConfig, deadline: Deadline, kept: Connections | None
) -> Fetched | tuple[str, str]:
    """What one request gives: the body, or the status and Location of a redirect."""
    with CheckedConnection(peer, deadline, kept) as connection:
        try:
            response = _ask(connection, parts, config, keep=kept is not None)
        except (http.client.HTTPException, ConnectionError):
            if not connection.is_used:
                raise
            response = None
        if response:
            return _read(connection, response, config)
    # The server has ended the connection between two requests.
    with CheckedConnection(peer, deadline) as connection:
        return _read(connection, _ask(connection, parts, config, keep=False), config)


def _read(
    connection: CheckedConnection, response: http.client.HTTPResponse, config: DownloadConfig
) -> Fetched | tuple[str, str]:
    if response.status == 407 and connection.forwarder:
        raise refused_by(connection.forwarder, response)
    if response.status in REDIRECTS:
        return f"HTTP {response.status} {response.reason}", response.getheader("Location") or ""
    fetched = _accept(response, config)
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


def _split(url: str) -> SplitResult:
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


def _accept(response: http.client.HTTPResponse, config: DownloadConfig) -> Fetched:
    """The body of a response whose status and headers allow it. Raises FetchError for all others."""
    status = f"HTTP {response.status} {response.reason}".strip()
    if response.status >= 500 or response.status == 429:
        error_class = "http_5xx" if response.status >= 500 else "http_4xx"
        raise FetchError(error_class, status, retry=True, wait_s=_retry_after_s(response))
    if response.status != 200:
        raise FetchError("http_4xx" if 400 <= response.status < 500 else "other", status)
    robots = response.headers.get_all("X-Robots-Tag", [])
    if config.honour_noai and any(is_disallowed(value, _token(config.user_agent)) for value in robots):
        raise FetchError("disallowed", f"X-Robots-Tag: {', '.join(robots)}")
    body = _read_body(response, config.max_bytes)
    body = unpack(body, codings_of(response.headers.get_all("Content-Encoding", [])), config.max_bytes)
    return Fetched(body, response.getheader("Content-Type") or "")


def _read_body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    expected = response.length
    if expected is not None and expected > max_bytes:
        raise FetchError("too_many_bytes", f"Content-Length {expected:,} is over {max_bytes:,} bytes")
    body = bytearray()
    while len(body) != expected and (chunk := response.read1(READ_BYTES)):
        body += chunk
        if len(body) > max_bytes:
            raise FetchError("too_many_bytes", f"the body goes on after {max_bytes:,} bytes")
    if expected is not None and len(body) < expected:
        raise FetchError("truncated_image", f"the body ended after {len(body):,} of {expected:,} bytes", retry=True)
    return bytes(body)


def _retry_after_s(response: http.client.HTTPResponse) -> float:
    value = response.getheader("Retry-After") or ""
    return float(value) if value.isdecimal() else 0.0


def _as_fetch_error(error: Exception, parts: SplitResult, deadline: Deadline) -> FetchError:
    """An exception of http.client, ssl or socket as a FetchError."""
    if isinstance(error, TimeoutError):
        return FetchError("timeout", f"no whole answer within {deadline.timeout_s:g} s", retry=True)
    certificate = isinstance(error, ssl.SSLCertVerificationError)
    what = " ".join(str(error).split()) or type(error).__name__  # a server's own words, where it speaks no HTTP
    return FetchError("connection", f"{parts.hostname}: {what}", retry=not certificate)


def is_disallowed(value: str, token: str) -> bool:
    """Whether an X-Robots-Tag says noai or noimageai to all, or to the crawler named `token` (img2dataset's rule).

    A name before a colon addresses what follows it, up to the next name.
    """
    addressed = True
    for piece in value.split(","):
        name, colon, directive = piece.strip().lower().partition(":")
        if colon and name.strip() not in VALUED:
            addressed = name.strip() in ("*", token)
        else:
            directive = name
        if addressed and directive.strip() in NOAI:
            return True
    return False


def _token(user_agent: str) -> str:
    """The crawler name that X-Robots-Tag would use: the product after `compatible;` in the agent, else its first."""
    name = user_agent.partition("compatible;")[2] or user_agent
    return name.strip(" ()").split(";")[0].split("/")[0].strip().lower()
