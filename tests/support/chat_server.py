"""An OpenAI-compatible chat server on loopback, in a process of its own, that misbehaves as it is told to.

    .venv/bin/python -m tests.support.chat_server [PORT]

`ChatServer` starts one and talks to it. It writes the same text for the same picture, prompt and seed, counts what it
was asked and what it answered, and takes its manners by `POST /manners`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import subprocess
import sys
import urllib.request
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web

MANNERS = (
    "ok", "429", "429_later", "429_date", "429_quota", "500", "503", "401", "403", "404", "402", "redirect", "reset",
    "hang", "bad_json", "no_choices", "no_text", "refusal", "filtered", "filtered_400", "malformed", "too_large",
    "drip", "cut_off", "endless", "other_model", "error_in_200", "list_content", "long",
)  # fmt: skip
"""How it can answer. `429_later` says Retry-After: 0.3; `cut_off` ends before its Content-Length; `drip` sends a byte
each tenth of a second, `endless` sends more than anybody wants."""

LATENCY_S = 0.1

REPO = Path(__file__).parents[2]


class ChatServer:
    """A server process while the `with` block lasts; `url` is its base, as an endpoint's."""

    def __init__(self, port: int = 0, **manners: Any) -> None:
        self.port, self._manners = port, manners

    def __enter__(self) -> ChatServer:
        command = [sys.executable, "-m", "tests.support.chat_server", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPO)
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())
        self.be(**self._manners)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()

    @property
    def url(self) -> str:
        """As an endpoint's."""
        return f"http://127.0.0.1:{self.port}/v1"

    def be(self, **manners: Any) -> None:
        """Have it answer so from here on, and count anew; see `Manners`."""
        self._call("manners", manners)

    def counts(self) -> dict[str, Any]:
        """What it was asked since, and what it answered."""
        return self._call("counts")

    def _call(self, path: str, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", data)
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


class Manners:
    """`first`: how it answers the first requests, one after another; then by `shares` (manner to share, the rest ok),
    drawn with `seed`. More than `most_in_flight` at a time are told 429; `latency_s` before each answer, and
    `latency_each_s` more for each that is under way; `key`: what it wants; `logprobs`: P(yes) of the first token.
    """

    def __init__(self, **told: Any) -> None:
        self.first: list[str] = told.get("first", [])
        self.shares: dict[str, float] = told.get("shares", {})
        self.always: str = told.get("always", "ok")
        self.latency_s: float = told.get("latency_s", LATENCY_S)
        self.latency_each_s: float = told.get("latency_each_s", 0.0)
        self.most_in_flight: int = told.get("most_in_flight", 10**9)
        self.key: str | None = told.get("key")
        self.yes: float | None = told.get("yes")
        self.random = random.Random(told.get("seed", 0))

    def next(self) -> str:
        if self.first:
            return self.first.pop(0)
        drawn = self.random.random()
        for manner, share in self.shares.items():
            drawn -= share
            if drawn < 0:
                return manner
        return self.always


class Server:
    def __init__(self) -> None:
        self.manners = Manners()
        self.forget()

    def forget(self) -> None:
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.by_manner: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = self.tokens = 0
        self.last: dict[str, Any] = {}

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            body = await request.json()
            return await self._answer(request, body)
        finally:
            self.in_flight -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        name = name_of(body)
        self.asked[name] += 1
        self.last = {"headers": dict(request.headers), "body": _short(body)}
        manner = self.manners.next()
        if self.manners.key and request.headers.get("Authorization") != f"Bearer {self.manners.key}":
            manner = "401"
        elif self.in_flight > self.manners.most_in_flight:
            manner = "429"
        self.by_manner[manner] += 1
        if manner not in ("429", "429_later", "503"):  # these are quick to say it
            await asyncio.sleep(self.manners.latency_s + self.manners.latency_each_s * self.in_flight)
        if manner in ERRORS:
            status, error, headers = ERRORS[manner]
            return web.json_response({"error": error}, status=status, headers=headers)
        if manner in ODD:
            return await ODD[manner](request)
        payload = payload_for(manner, body, name, self.manners.yes)
        if manner in ("ok", "long", "list_content", "filtered", "refusal"):
            self.answered[name] += 1
            self.tokens += sum(payload["usage"].values())
        return web.json_response(payload)

    async def take_manners(self, request: web.Request) -> web.Response:
        self.manners = Manners(**await request.json())
        self.forget()
        return web.json_response({})

    async def counts(self, _: web.Request) -> web.Response:
        told = {name: getattr(self, name) for name in ("asked", "answered", "by_manner", "most_in_flight", "tokens")}
        return web.json_response(told | {"requests": self.asked.total(), "last": self.last})


def name_of(body: dict[str, Any]) -> str:
    """What is asked: of the picture's bytes, the prompt and the seed."""
    picture, prompt = body["messages"][-1]["content"]
    told = [picture["image_url"]["url"], prompt["text"], body.get("seed")]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


def payload_for(manner: str, body: dict[str, Any], name: str, yes: float | None) -> dict[str, Any]:
    """An answer with status 200, and what is wrong with it."""
    prompt = body["messages"][-1]["content"][1]["text"]
    message: dict[str, Any] = {"role": "assistant", "content": f"a drawing {name} of {prompt[:20]}"}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": _tokens(yes)}
    if manner == "no_text":
        message["content"] = None
    elif manner == "list_content":
        message["content"] = [{"type": "reasoning", "text": "hm"}, {"type": "text", "text": message["content"]}]
    elif manner == "long":
        choice["finish_reason"] = "length"
    elif manner == "refusal":
        message |= {"content": None, "refusal": "I'm sorry, I can't help with that."}
    elif manner == "filtered":
        choice["finish_reason"] = "content_filter"
    answer = {"id": "1", "object": "chat.completion", "model": body["model"], "choices": [choice]}
    answer["usage"] = {"prompt_tokens": 90, "completion_tokens": 10}
    if manner == "no_choices":
        answer["choices"] = []
    elif manner == "other_model":
        answer["model"] = "somebody-else-7b"
    elif manner == "error_in_200":
        answer = {"error": {"code": 503, "message": "upstream is gone"}}
    return answer


def _tokens(yes: float | None) -> list[dict[str, Any]]:
    if yes is None:
        return [{"token": "a", "logprob": -0.5}, {"token": " drawing", "logprob": -0.25}]
    likely = [("Yes", 0.75 * yes), (" yes", 0.25 * yes), ("No", 1 - yes - 0.05), ("Maybe", 0.05)]
    top: list[dict[str, Any]] = [{"token": token, "logprob": math.log(p)} for token, p in likely if p > 0]
    return [max(top, key=lambda one: float(one["logprob"])) | {"top_logprobs": top}]


def _short(body: dict[str, Any]) -> dict[str, Any]:
    return body | {"messages": [m if isinstance(m["content"], str) else m["content"][1] for m in body["messages"]]}


async def reset(request: web.Request) -> web.StreamResponse:
    assert request.transport
    request.transport.abort()
    return web.Response()


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    return web.Response()


async def bad_json(request: web.Request) -> web.StreamResponse:
    return web.Response(text='{"choices": [{"message": {"content": "half of', content_type="application/json")


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for sign in b'{"choices": [{"message": {"content": "slow"}}]}':
        await response.write(bytes([sign]))
        await asyncio.sleep(0.1)
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(100):
        await response.write(b" " * 65536)
        await asyncio.sleep(0)
    return response


async def cut_off(request: web.Request) -> web.StreamResponse:
    assert request.transport
    request.transport.write(b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"choices": [{"message": ')
    request.transport.close()
    return web.Response()


async def redirect(request: web.Request) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect("http://127.0.0.1:9/v1/chat/completions")


ODD = {f.__name__: f for f in (reset, hang, bad_json, drip, endless, cut_off, redirect)}

ERRORS: dict[str, tuple[int, Any, dict[str, str]]] = {
    "429": (429, {"message": "slow down", "code": "rate_limit_exceeded"}, {}),
    "429_later": (429, {"message": "slow down"}, {"Retry-After": "0.3"}),
    "429_date": (429, {"message": "slow down"}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "429_quota": (429, {"message": "you exceeded your quota", "code": "insufficient_quota"}, {}),
    "500": (500, "it broke", {}),
    "503": (503, {"message": "overloaded"}, {}),
    "401": (401, {"message": "Incorrect API key provided: sk-secret-key. Find yours at ..."}, {}),
    "402": (402, {"message": "pay"}, {}),
    "403": (403, {"message": "no"}, {}),
    "404": (404, {"message": "The model `tiny` does not exist (key sk-secret-key)"}, {}),
    "filtered_400": (400, {"message": "filtered", "innererror": {"code": "ResponsibleAIPolicyViolation"}}, {}),
    "malformed": (400, {"message": "unknown field `seed` (key sk-secret-key)", "type": "invalid_request_error"}, {}),
    "too_large": (400, {"message": "too many tokens", "code": "context_length_exceeded"}, {}),
}


async def serve(port: int) -> None:
    """Serve until the process is killed; the port is the first line of its output."""
    server, app = Server(), web.Application(client_max_size=2**30)
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_post("/manners", server.take_manners)
    app.router.add_get("/counts", server.counts)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
