"""What a server's answer gives: the body where its status, headers and length allow it, else the class of failure."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from blip_bootstrap.config import DownloadConfig
from blip_pipelines.fetch.bodies import codings_of, unpack
from blip_pipelines.fetch.deadlines import FetchError
from blip_pipelines.fetch.directives import Said, beside, check_headers, said_by_headers

READ_BYTES = 65_536

MAX_TEXT_BYTES = 512_000
"""What is read of a robots.txt: 500 KiB (RFC 9309, section 2.5)."""


@dataclass(frozen=True)
class Try:
    """One try at a URL: when it ended (UTC), the class of its failure, and the status of the server's answer."""

    time: datetime
    error_class: str | None
    http_status: int | None


@dataclass(frozen=True)
class Fetched:
    """The result of one URL: the body, or the error class and message of the failure.

    `said` is what the host said about its use. `retry`: another try may give something else, `wait_s` seconds later
    where the server said so.
    """

    body: bytes | None
    content_type: str = ""
    error_class: str | None = None
    error_message: str | None = None
    http_status: int | None = None
    said: Said = field(default_factory=Said)
    retry: bool = False
    wait_s: float = 0.0
    tries: tuple[Try, ...] = ()


@dataclass
class Seen:
    """What is known of a try, however it ends."""

    said: Said = field(default_factory=Said)
    http_status: int | None = None


Accept = Callable[[http.client.HTTPResponse, DownloadConfig, Seen], Fetched]
"""Takes what it wants of an answer; raises FetchError where it wants none of it."""


def accept(response: http.client.HTTPResponse, config: DownloadConfig, seen: Seen) -> Fetched:
    """The body of a response whose status and headers allow it. Raises FetchError for all others."""
    status = f"HTTP {response.status} {response.reason}".strip()
    seen.said = beside(said_by_headers(response.headers), seen.said)
    if response.status >= 500 or response.status == 429:
        error_class = "http_5xx" if response.status >= 500 else "http_4xx"
        raise FetchError(error_class, status, retry=True, wait_s=retry_after_s(response.getheader("Retry-After")))
    if response.status != 200:
        raise FetchError("http_4xx" if 400 <= response.status < 500 else "other", status)
    check_headers(response.headers, config)
    body = _read_body(response, config.max_bytes)
    body = unpack(body, codings_of(response.headers.get_all("Content-Encoding", [])), config.max_bytes)
    return Fetched(body, response.getheader("Content-Type") or "")


def accept_text(response: http.client.HTTPResponse, config: DownloadConfig, seen: Seen) -> Fetched:
    """The first bytes of a file; no body where the server has none, or it cannot be unpacked."""
    if not 200 <= response.status < 300:
        return Fetched(None)
    body, end = bytearray(), time.monotonic() + config.timeout_s
    while len(body) < MAX_TEXT_BYTES and time.monotonic() < end and (chunk := response.read1(READ_BYTES)):
        body += chunk
    codings = codings_of(response.headers.get_all("Content-Encoding", []))
    try:
        return Fetched(unpack(bytes(body), codings, 4 * MAX_TEXT_BYTES)[:MAX_TEXT_BYTES])
    except FetchError:
        return Fetched(None)


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


def retry_after_s(value: str | None, now: datetime | None = None) -> float:
    """The seconds that a Retry-After header asks to wait, given as such or as a date; 0 where it says nothing."""
    value = (value or "").strip()
    if value.isdecimal() and value.isascii():
        return float(value[:10])
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
