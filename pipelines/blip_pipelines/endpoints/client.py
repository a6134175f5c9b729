"""Sends chat requests to a pool of endpoints, many at once, and tries again what can be tried again."""

from __future__ import annotations

import asyncio
import random
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from blip_bootstrap.errors import RunFailed
from blip_pipelines.endpoints.answers import REFUSALS, SIZES, BadAnswer, Response, receive
from blip_pipelines.endpoints.ledger import Ledger
from blip_pipelines.endpoints.pool import Endpoint, Pool, rest_of

Read = TypeVar("Read")

PAUSES_S = (0.25, 8.0)
"""What the longest pause is doubled from, each time, and the longest of all: before the second try half a second. Each
is drawn between 0 and it, so that requests that failed together do not come back together."""

OVERLOADED = (429, 503, 529)

MEANINGS = {
    401: "it takes no key, or another one; set key_variable to the name of the environment variable that holds it",
    402: "it wants to be paid first",
    403: "this key may not ask for that",
    429: "the key's quota is spent",
}


@dataclass(frozen=True)
class Tried(Generic[Read]):
    """What came of sending a request once."""

    value: Read | None = None
    reason: str | None = None
    is_final: bool = True
    """Whether to leave it at that."""
    was_sent: bool = True
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def with_usage(self, usage: object) -> Tried[Read]:
        """This, with the tokens that the server counted, where it says any."""
        told = usage if isinstance(usage, Mapping) else {}
        prompt, completion = (_whole(told.get(f"{name}_tokens")) for name in ("prompt", "completion"))
        return replace(self, prompt_tokens=prompt, completion_tokens=completion)


@dataclass(frozen=True)
class Reply(Generic[Read]):
    """What came of one request with all its tries: `value`, or the reason why there is none, and what it took."""

    value: Read | None = None
    error: str | None = None
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    """While requests were under way; without waiting for a turn, and without pauses."""

    def plus(self, tried: Tried[Read], seconds: float) -> Reply[Read]:
        """This, and one more try that took so long."""
        return Reply(
            tried.value,
            tried.reason,
            self.requests + tried.was_sent,
            self.prompt_tokens + tried.prompt_tokens,
            self.completion_tokens + tried.completion_tokens,
            self.seconds + seconds,
        )

    @property
    def cost(self) -> dict[str, float]:
        """As an answer has it."""
        return {name: getattr(self, name) for name in ("requests", "prompt_tokens", "completion_tokens", "seconds")}


@dataclass(frozen=True)
class Link:
    """How endpoints are reached: who is asked, with which key, how patiently."""

    urls: Sequence[str]
    model: str
    answers_as: Sequence[str] = ()
    """Names beside `model`, and those that begin with it, that an answer's `model` may have."""
    key: str | None = None
    key_header: str = "Authorization"
    max_in_flight: int = 32
    start_in_flight: int = 8
    timeout_s: float = 120.0
    connect_timeout_s: float = 10.0
    max_tries: int = 6
    give_up_s: float = 300.0

    def __repr__(self) -> str:
        """Without the key, which belongs in no log."""
        return f"Link({', '.join(self.urls)})"

    def headers(self) -> dict[str, str]:
        """What each request has beside its body."""
        known = {"Content-Type": "application/json"}
        if self.key is None:
            return known
        return known | {self.key_header: f"Bearer {self.key}" if self.key_header == "Authorization" else self.key}

    def is_own(self, name: object) -> bool:
        """Whether an answer that says it is of model `name` is of the model that was asked for.

        A server may say no name, a dated one (`model-2026-01-01`), or the name without the maker's (`maker/model`).
        """
        if not isinstance(name, str) or not name:
            return True
        wanted, told = self.model.lower(), name.lower()
        own = told.startswith(wanted) or told.split("/")[-1].startswith(wanted.split("/")[-1])
        return own or name in self.answers_as

    def without_key(self, text: str) -> str:
        """A server's words in one line of at most 200 characters, with the key taken out."""
        line = " ".join(text.split())
        return (line.replace(self.key, "***") if self.key else line)[:200]


Reader = Callable[[Mapping[str, Any]], Read]
"""Takes what is wanted out of an answer; raises BadAnswer where it is not there."""

Body = Callable[[], bytes]
"""Makes a request's body when its turn has come: a batch's pictures are not all in memory as base64."""


class ChatClient:
    """Asks for chat completions at a pool of endpoints; calls from several threads share its limits.

    Requests run in an event loop in a thread of its own, so that this works where a loop is running already; its
    connections are kept from call to call. `close` ends both; so does the end of the process.
    """

    def __init__(self, link: Link, ledger: Ledger | None = None) -> None:
        self._link, self.ledger = link, ledger
        start = float(min(link.start_in_flight, link.max_in_flight))
        self.endpoints = [Endpoint(url, link.max_in_flight, start, link.timeout_s) for url in link.urls]
        # As long as two time-outs at least: one slow answer is no silence.
        self._pool = Pool(self.endpoints, max(link.give_up_s, 2 * link.timeout_s))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoints", daemon=True)
        self._thread.start()
        self._session = self._do(_open_session(link))
        self._proxies = {one.url: _proxy_of(one.url) for one in self.endpoints}
        self.close = weakref.finalize(self, _shut, self._loop, self._thread, self._session)

    def ask_all(self, bodies: Sequence[Body], read: Reader[Read]) -> list[Reply[Read]]:
        """The replies to all requests, in their order; `read` takes what is wanted out of an answer, or BadAnswer.

        Raises RunFailed where no endpoint can be asked any more and nothing of this call was answered. Where something
        was, it is returned, since it was paid for; the next call raises.
        """
        replies: list[Reply[Read]] = self._do(self._ask_all(bodies, read))
        failed = self._pool.failed
        if failed and not any(reply.value is not None for reply in replies):
            raise RunFailed(f"endpoints: {failed}; run again to go on")
        return replies

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Have the loop do it; where the wait is interrupted, what is under way is dropped."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    async def _ask_all(self, bodies: Sequence[Body], read: Reader[Read]) -> list[Reply[Read]]:
        self._pool.begin()
        try:
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(self._ask(body, read)) for body in bodies]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            if self.ledger:
                self.ledger.write()
        return [task.result() for task in asked]

    async def _ask(self, body: Body, read: Reader[Read]) -> Reply[Read]:
        """One request, until it is answered, or its reason is final, or it has been tried often enough."""
        reply: Reply[Read] = Reply()
        last: Endpoint | None = None
        while True:
            endpoint = await self._pool.take(last)
            if endpoint is None:
                return replace(reply, error=reply.error or "no_connection")
            try:
                if self.ledger and not self.ledger.take():
                    return replace(reply, error="over_budget")
                sent_at = time.monotonic()
                tried = await self._try(endpoint, body, read, sent_at)
                reply = reply.plus(tried, time.monotonic() - sent_at)
            finally:
                self._pool.give_back(endpoint)
            if tried.is_final or reply.requests >= self._link.max_tries:
                return reply
            if tried.was_sent:  # a server that was not reached rests as a whole
                first, longest = PAUSES_S
                await asyncio.sleep(random.uniform(0, min(longest, first * 2**reply.requests)))
            last = endpoint

    async def _try(self, endpoint: Endpoint, body: Body, read: Reader[Read], sent_at: float) -> Tried[Read]:
        """Send it once, and let the endpoint and the account know what came of it."""
        tried: Tried[Read] = Tried(reason="no_connection", is_final=False, was_sent=False)
        try:
            tried = self._told(endpoint, await self._send(endpoint, body), read, sent_at)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            endpoint.unreached()
        except TimeoutError:
            endpoint.overloaded(sent_at, None)
            tried = Tried(reason="timeout", is_final=False)
        except aiohttp.ClientError:  # broken off, or no HTTP
            tried = Tried(reason="server_error", is_final=False)
        finally:
            if self.ledger:
                self.ledger.settle(tried.prompt_tokens + tried.completion_tokens, tried.was_sent)
        if tried.reason:
            self._pool.note_failure(endpoint, tried.reason)
        return tried

    async def _send(self, endpoint: Endpoint, body: Body) -> Response:
        """Raises ClientError or TimeoutError where there is no whole answer in time."""
        data, where = body(), f"{endpoint.url}/chat/completions"
        proxy = self._proxies[endpoint.url]
        async with self._session.post(where, data=data, allow_redirects=False, proxy=proxy) as response:
            return await receive(response)

    def _told(self, endpoint: Endpoint, response: Response, read: Reader[Read], sent_at: float) -> Tried[Read]:
        """What a server's answer says."""
        payload = response.payload()
        status, code, told = response.failure(payload)
        told = self._link.without_key(told)
        if status == 200 and payload is not None:
            endpoint.answered(sent_at)
            return self._value_of(endpoint, payload, read)
        if status in OVERLOADED and code != "insufficient_quota":
            endpoint.overloaded(sent_at, rest_of(response.header))
            return Tried(reason="rate_limited" if status == 429 else "server_error", is_final=False)
        if status == 200 or status >= 500 or status == 408:
            return Tried(reason={200: "bad_answer", 408: "timeout"}.get(status, "server_error"), is_final=False)
        if any(word in code for word in REFUSALS):
            endpoint.answered(sent_at)
            return Tried(reason="refused")
        if status == 413 or code in SIZES:
            endpoint.answered(sent_at)
            return Tried(reason="too_large")
        if status in (400, 422):
            endpoint.malformed(f"{status} {told}")
            return Tried(reason="bad_request")
        # What a server says of a key may repeat part of it.
        endpoint.broken = f"answers {status}: {MEANINGS.get(status, told or 'no endpoint')}"
        return Tried(reason="server_error", is_final=False)

    def _value_of(self, endpoint: Endpoint, payload: Mapping[str, Any], read: Reader[Read]) -> Tried[Read]:
        usage, name = payload.get("usage"), payload.get("model")
        if not self._link.is_own(name):
            told = self._link.without_key(str(name))
            endpoint.broken = f"answers as {told}, not {self._link.model}; set answers_as, where that is the same"
            return Tried[Read](reason="bad_answer", is_final=False).with_usage(usage)
        try:
            return Tried(read(payload)).with_usage(usage)
        except BadAnswer as bad:
            return Tried[Read](reason=bad.reason, is_final=bad.final).with_usage(usage)


async def _open_session(link: Link) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=link.timeout_s, sock_connect=link.connect_timeout_s)
    connector = aiohttp.TCPConnector(limit=0)  # the pool says how many
    return aiohttp.ClientSession(connector=connector, timeout=timeout, headers=link.headers())


def _proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL, as for downloads; a .netrc is not read."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)


def _shut(loop: asyncio.AbstractEventLoop, thread: threading.Thread, session: aiohttp.ClientSession) -> None:
    if threading.current_thread() is not thread and loop.is_running():
        asyncio.run_coroutine_threadsafe(session.close(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def _whole(value: object) -> int:
    """A count of tokens as a server tells it; what is none counts as nothing."""
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**53 else 0
