"""The endpoint captioner beside a plain asyncio client with as many requests in flight, at the same slow server.

    .venv/bin/python tests/bench/endpoint.py [--rows 640] [--in-flight 32] [--rounds 9] [--json]

The server is a process of its own on loopback, and waits 100 ms before each answer. The plain client is 32 coroutines
around aiohttp, which post one request after another and read the answers: no retries, no account, no limits. Rounds
alternate, after one that is not counted; the captioner's connections and limit stay from round to round, as in a run.
`ratio_plain` is the median over rounds of the captioner's rows a second by the plain client's of the same round.
Then 5 % of the answers are failures of all kinds: each row has its text, or its reason.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import aiohttp
from PIL import Image

from blip_pipelines.captioners.endpoint import EndpointCaptioner
from blip_pipelines.captioners.interface import Ask
from tests.support.chat_server import LATENCY_S, ChatServer

FAILURES = {
    "429": 0.01, "429_later": 0.01, "500": 0.01, "503": 0.005, "reset": 0.005, "bad_json": 0.005, "refusal": 0.005,
}  # fmt: skip
"""5 % of the answers."""


def make_asks(count: int) -> list[Ask]:
    """Asks about pictures of noise, 256 pixels wide: JPEGs of about 30 kB, as a run's are."""
    noise = Image.effect_noise((256, 256), 60).convert("RGB")
    stored = io.BytesIO()
    noise.save(stored, "JPEG", quality=90)
    return [Ask(noise, stored.getvalue(), "Describe the picture in one sentence.", seed) for seed in range(count)]


def full(body: dict[str, Any], jpg: bytes) -> dict[str, Any]:
    """A request as anybody would write it, with the picture as base64 in it."""
    body["messages"][-1]["content"][0]["image_url"]["url"] = f"data:image/jpeg;base64,{base64.b64encode(jpg).decode()}"
    return body


async def ask_plainly(url: str, body: Callable[[Ask], Any], asks: Sequence[Ask], in_flight: int) -> list[str]:
    """The texts that a plain client gets: so many coroutines take one ask after another."""
    texts, left = [""] * len(asks), iter(enumerate(asks))

    async def work(session: aiohttp.ClientSession) -> None:
        for place, ask in left:
            async with session.post(f"{url}/chat/completions", json=full(body(ask), ask.jpg)) as response:
                texts[place] = (await response.json())["choices"][0]["message"]["content"]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as session:
        await asyncio.gather(*(work(session) for _ in range(in_flight)))
    return texts


def ask_ours(captioner: EndpointCaptioner, asks: Sequence[Ask]) -> list[str]:
    """The texts that the captioner gets."""
    return [answer.text for answer in captioner.caption(asks)]


def measure(server: ChatServer, write: Callable[[], list[str]], rows: int) -> dict[str, float]:
    """Rows a second, and the most requests in flight that the server saw."""
    server.be()
    began, cpu = time.perf_counter(), time.process_time()
    texts = write()
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    assert [*map(bool, texts)] == [True] * rows
    in_flight = server.counts()["most_in_flight"]
    return {"rows_per_s": rows / seconds, "in_flight": in_flight, "cpu_ms_per_row": 1000 * cpu_s / rows}


def compare(server: ChatServer, captioner: EndpointCaptioner, asks: Sequence[Ask], options: Any) -> dict[str, Any]:
    """Rounds of both, in turn, each round begun by the other one."""
    ours: Callable[[], list[str]] = partial(ask_ours, captioner, asks)

    def plain() -> list[str]:
        return asyncio.run(ask_plainly(server.url, captioner.body, asks, options.in_flight))

    runs: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for number in range(options.rounds + 1):
        kinds = [("ours", ours), ("plain", plain)]
        for name, write in kinds if number % 2 else kinds[::-1]:
            runs[name].append(measure(server, write, len(asks)))
    counted = {name: found[1:] for name, found in runs.items()}
    pairs = zip(counted["ours"], counted["plain"], strict=True)
    median = {
        name: {key: statistics.median(one[key] for one in found) for key in found[0]} for name, found in counted.items()
    }
    return {
        "ratio_plain": statistics.median(one["rows_per_s"] / other["rows_per_s"] for one, other in pairs),
        "rows_per_s": median["ours"]["rows_per_s"],
        "rows_per_s_plain": median["plain"]["rows_per_s"],
        "rows_per_s_best": options.in_flight / LATENCY_S,
        "in_flight": median["ours"]["in_flight"],
        "in_flight_plain": median["plain"]["in_flight"],
        "cpu_ms_per_row": median["ours"]["cpu_ms_per_row"],
        "cpu_ms_per_row_plain": median["plain"]["cpu_ms_per_row"],
    }


def with_failures(server: ChatServer, captioner: EndpointCaptioner, asks: Sequence[Ask]) -> dict[str, Any]:
    """What becomes of rows where 5 % of the answers are failures."""
    server.be(shares=FAILURES)
    began = time.perf_counter()
    answers = captioner.caption(asks)
    seconds, counts = time.perf_counter() - began, server.counts()
    return {
        "failing_rows_per_s": len(asks) / seconds,
        "failing_texts": sum(bool(answer.text) for answer in answers),
        "failing_reasons": dict(Counter(answer.error for answer in answers if answer.error)),
        "failing_neither": sum(not answer.text and not answer.error for answer in answers),
        "failing_requests": counts["requests"],
        "failing_requests_billed": sum(answer.cost["requests"] for answer in answers),
        "failing_answered_twice": sum(times > 1 for times in counts["answered"].values()),
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    asks = make_asks(options.rows)
    with ChatServer() as server:
        captioner = EndpointCaptioner({"urls": [server.url], "model": "tiny", "max_in_flight": options.in_flight})
        found = compare(server, captioner, asks, options) | with_failures(server, captioner, asks)
        captioner.close()
    found |= {"rows": options.rows, "rounds": options.rounds, "latency_s": LATENCY_S, "jpg_bytes": len(asks[0].jpg)}
    if options.json:
        print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}))
        return
    for key, value in found.items():
        print(f"{key:26} {round(value, 3) if isinstance(value, float) else value}")


if __name__ == "__main__":
    main()
