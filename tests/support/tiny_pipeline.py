"""One Ray and one rude web server for all tests of the pipelines, and models that take milliseconds."""

from __future__ import annotations

import gzip
import io
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from blip_bootstrap.config import ModelConfig, RayConfig, TextConfig, VisionConfig
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet

Served = TypeVar("Served", bound=ThreadingHTTPServer)

WORDS = [
    "the", "a", "picture", "of", "dog", "cat", "red", "blue", "green", "small", "large", "circle", "square", "on",
    "under", "is", "and", "with", "in", "two",
]  # fmt: skip
LETTERS = [prefix + letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789" for prefix in ("", "##")]


@pytest.fixture(scope="session")
def ray_config() -> Iterator[RayConfig]:
    """A local Ray for the whole session."""
    from blip_pipelines.cluster.ray_session import disconnect
    from blip_pipelines.cluster.session import connect

    config = RayConfig(object_store_bytes=200_000_000)
    connect(config)
    yield config
    disconnect()


def encode(number: int, format: str = "JPEG", size: tuple[int, int] = (48, 40)) -> bytes:
    """A picture that `number` makes different from any other."""
    pixels = np.random.default_rng(number).integers(0, 255, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(stream, format)
    return stream.getvalue()


def write_images(folder: Path, num_rows: int, rows_per_part: int, damaged: tuple[int, ...] = ()) -> Path:
    """A folder of the table `images`; the rows `damaged` have bytes that are no picture, each tenth was not fetched."""
    empty = dict.fromkeys(IMAGES.schema.names)
    rows = []
    for i in range(num_rows):
        key = f"{i // rows_per_part:05d}{i % rows_per_part:05d}"
        row = empty | {"key": key, "status": "success", "caption": f"a  {WORDS[i % 20]} picture {i}\n", "url": "x"}
        failed = i % 10 == 9
        row |= {"status": "failed_to_download", "error_class": "http_4xx"} if failed else {"jpg": encode(i)}
        rows.append(row | ({"jpg": b"damaged"} if i in damaged else {}))
    for start in range(0, num_rows, rows_per_part):
        path = folder / f"part-{start // rows_per_part:05d}.parquet"
        write_parquet(path, rows_to_table(rows[start : start + rows_per_part], IMAGES), IMAGES)
    return folder


@pytest.fixture(scope="session")
def make_images() -> Callable[..., Path]:
    return write_images


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    return save_tiny


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny random captioner and filter, which see pictures at different sizes."""
    folder = tmp_path_factory.mktemp("models")
    return save_tiny(folder / "captioner", 32, seed=0), save_tiny(folder / "filter", 24, seed=1)


def save_tiny(folder: Path, image_size: int, seed: int) -> Path:
    """A random Med of width 32 and depth 2."""
    import torch

    from blip_training.checkpoint.store import save_med
    from blip_training.data.tokenizer import Tokenizer
    from blip_training.model.med import Med

    vocabulary = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *LETTERS])
    tokenizer = Tokenizer(list(vocabulary))
    vision = VisionConfig(image_size=image_size, patch_size=8, width=32, depth=2, heads=4)
    text = TextConfig(width=32, depth=2, heads=4, intermediate=64, max_positions=64)
    torch.manual_seed(seed)
    med = Med(ModelConfig(vision=vision, text=text, embed_dim=16), tokenizer.num_tokens)
    with torch.no_grad():
        for weight in med.parameters():
            weight.mul_(4)  # at their first size random weights make every picture look the same
    save_med(folder, med, tokenizer)
    return folder


class RudeHandler(BaseHTTPRequestHandler):
    """Answers `/name` by the method `on_name`; anything else is a picture, numbered by its path."""

    server: RudeServer

    def do_GET(self) -> None:
        name = self.path.strip("/").partition("?")[0].partition(".")[0]
        self.server.asked[self.path] += 1
        answer: Callable[[], None] = getattr(self, f"on_{name}", self.on_picture)
        answer()

    def on_picture(self) -> None:
        number = int("".join(filter(str.isdigit, self.path)) or 0)
        self.reply(encode(number, "PNG" if self.path.endswith(".png") else "JPEG"))

    def on_missing(self) -> None:
        self.reply(b"", 404)

    def on_busy_once(self) -> None:
        self.on_picture() if self.server.asked[self.path] > 1 else self.reply(b"", 503)

    def on_busy_always(self) -> None:
        self.reply(b"", 503, **{"Retry-After": "0"})

    def on_limited(self) -> None:
        self.reply(b"", 429)

    def on_html(self) -> None:
        self.reply(b"<!DOCTYPE html><p>Not here", 200, **{"Content-Type": "text/html"})

    def on_cut_file(self) -> None:
        whole = encode(1, size=(400, 300))
        self.reply(whole[: len(whole) // 2])

    def on_cut_body(self) -> None:
        whole = encode(1)
        self.start(200, {"Content-Length": str(len(whole))})
        self.wfile.write(whole[:100])

    def on_slow_body(self) -> None:
        self.start(200, {})
        self.drip(encode(1))

    def on_slow_header(self) -> None:
        self.drip(b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 10_000)

    def on_to_private(self) -> None:
        self.reply(b"", 302, Location="http://10.255.255.1/picture.jpg")

    def on_to_file(self) -> None:
        self.reply(b"", 302, Location="file:///etc/hostname")

    def on_to_picture(self) -> None:
        self.reply(b"", 301, Location="/picture7.jpg")

    def on_redirect(self) -> None:
        """To the bytes that the path after the question mark is in hexadecimal digits."""
        self.reply(b"", 302, Location=bytes.fromhex(self.path.partition("?")[2]).decode("latin-1"))

    def on_no_location(self) -> None:
        self.reply(b"", 302)

    def on_gzip(self) -> None:
        self.reply(gzip.compress(encode(1)), 200, **{"Content-Encoding": "gzip"})

    def on_gzip_bomb(self) -> None:
        self.reply(gzip.compress(bytes(40_000_000)), 200, **{"Content-Encoding": "gzip"})

    def on_loop(self) -> None:
        self.reply(b"", 302, Location="/loop")

    def on_endless(self) -> None:
        self.start(200, {})
        for _ in range(1_000):
            self.wfile.write(bytes(10_000))

    def on_declared_huge(self) -> None:
        self.start(200, {"Content-Length": "99999999999"})

    def on_bomb(self) -> None:
        stream = io.BytesIO()
        Image.new("1", (12_000, 12_000)).save(stream, "PNG")
        self.reply(stream.getvalue())

    def on_noai(self) -> None:
        self.reply(encode(1), 200, **{"X-Robots-Tag": "noindex, noai"})

    def on_noai_for_others(self) -> None:
        self.reply(encode(1), 200, **{"X-Robots-Tag": "otherbot: noai"})

    def on_noai_for(self) -> None:
        self.server.agents.append(self.headers["User-Agent"])
        self.reply(encode(1), 200, **{"X-Robots-Tag": f"{self.path.partition('?')[2]}: noai"})

    def on_members(self) -> None:
        known = self.headers["Authorization"] == "Basic bWU6cEBzcw=="  # me:p@ss
        self.on_picture() if known else self.reply(b"", 401)

    def on_after(self) -> None:
        """A picture once the path after the question mark has been asked for; 404 where it is not in ten seconds."""
        other, end = "/" + self.path.partition("?")[2], time.monotonic() + 10
        while not self.server.asked[other] and time.monotonic() < end:
            time.sleep(0.01)
        self.on_picture() if self.server.asked[other] else self.reply(b"", 404)

    def on_hang_up(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)

    def on_keeps_open(self) -> None:
        body = encode(3)
        self.start(200, {"Content-Length": str(len(body))})
        self.wfile.write(body)
        self.wfile.flush()
        time.sleep(3)

    def on_chunked(self) -> None:
        body = encode(3)
        self.protocol_version = "HTTP/1.1"
        self.start(200, {"Transfer-Encoding": "chunked", "Connection": "close"})
        for at in range(0, len(body), 500):
            piece = body[at : at + 500]
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def on_narrow(self) -> None:
        self.reply(encode(1, size=(640, 16)))

    def on_small(self) -> None:
        self.reply(encode(1, size=(8, 8)))

    def drip(self, body: bytes) -> None:
        for byte in body:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(0.05)

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def reply(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.start(status, {"Content-Length": str(len(body)), **headers})
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class RudeServer(ThreadingHTTPServer):
    """A loopback web server that fails in every way; `asked` counts the requests by path."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), RudeHandler)
        self.asked: Counter[str] = Counter()
        self.agents: list[str] = []
        self.host = f"127.0.0.1:{self.server_port}"

    def url(self, name: str) -> str:
        return f"http://{self.host}/{name}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up on endless answers are what is wanted."""


@contextmanager
def serving(server: Served) -> Iterator[Served]:
    """A server that answers, in a thread of its own, while the body runs."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def rude_server() -> Iterator[RudeServer]:
    with serving(RudeServer()) as server:
        yield server
