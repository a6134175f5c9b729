"""What a run makes anew when its lists grow, rows are fetched again and a part is damaged, beside its first run.

    .venv/bin/python tests/bench/growth.py [--json] [--rows 10000] [--added 1000] [--failing 500]

A list of `rows` rows in four parts, fetched from a web server on loopback that refuses `failing` of them; a tiny random
captioner and filter, captions of at most five tokens; no training. Then, one after the other: the same command again;
a second list of `added` rows; `--retry failed` while the server has all; a part of images and one of captions cut
short, each by itself; and the first list alone, as at the start. Printed for each: parts that were made and parts that
stayed as they are, of images, captions and pairs, the seconds of the command, and of each step that did something.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1"}
sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in (".", "training", "pipelines")]

from blip_bootstrap.audit.audits import audit, check_accounting  # noqa: E402
from blip_bootstrap.config import Config, load_config  # noqa: E402
from blip_bootstrap.loop.rounds import run_rounds  # noqa: E402

TABLES = {"images": "images", "captions": "round-01/captions", "pairs": "round-01/pairs"}

LEVELS = 40
"""Shades of each colour of the pictures, of which there are as many as LEVELS cubed."""


class Pictures(ThreadingHTTPServer):
    """Answers `/i17.jpg` with the picture 17, `refused` ones with 404 while `is_short`; counts what is asked for."""

    is_short = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, refused: set[int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refused, self.asked = refused, Counter[str]()


class _Handler(BaseHTTPRequestHandler):
    server: Pictures
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.strip("/").partition(".")[0].removeprefix("i")
        body = self._picture(int(name)) if name.isdigit() else b""  # else it is a robots.txt or the like
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "image/jpeg")
        self.end_headers()
        self.wfile.write(body)

    def _picture(self, number: int) -> bytes:
        self.server.asked[self.path] += 1
        return b"" if self.server.is_short and number in self.server.refused else draw(number)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def draw(number: int) -> bytes:
    """A picture of 32 px of one colour, another one for each number."""
    from PIL import Image

    colour = tuple((number // LEVELS**place) % LEVELS * 6 for place in range(3))
    file = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(file, "JPEG")
    return file.getvalue()


@contextmanager
def served(refused: set[int]) -> Iterator[Pictures]:
    """The web, in threads of this process."""
    with Pictures(refused) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def write_list(path: Path, server: Pictures, numbers: range) -> str:
    """A list of these pictures; its setting."""
    rows = [f"http://127.0.0.1:{server.server_port}/i{at}.jpg\tw{at % 60} w{at % 7} of w{at % 31}" for at in numbers]
    path.write_text("\n".join(["url\tcaption", *rows]) + "\n")
    return f"{{path: {path}}}"


def config_of(folder: Path, lists: list[str], rows_per_shard: int, own: Sequence[str]) -> Config:
    """A round with given models and no training; `own` are further settings."""
    settings = [
        f"download.urls=[{', '.join(lists)}]", f"download.rows_per_shard={rows_per_shard}", "download.num_retries=0",
        "download.allow_private_addresses=true", f"captioner.checkpoint={folder / 'captioner'}",
        f"filter.checkpoint={folder / 'filter'}", "pretrain.optimizer.steps=0", "filter_check.pictures=0",
        "caption.sampler.preset=greedy", "caption.sampler.max_tokens=5", "caption.sampler.min_tokens=1",
        "select.itm_threshold=0.3", "ray.address=none", *own,
    ]  # fmt: skip
    return load_config(None, settings, root=folder / "run")


def state(root: Path) -> dict[str, dict[str, tuple[Path, int]]]:
    """The parts of each table: the file that each is, and when that was written."""
    parts = {name: sorted((root / place).glob("part-*.parquet")) for name, place in TABLES.items()}
    return {name: {one.name: (one.resolve(), one.stat().st_mtime_ns) for one in files} for name, files in parts.items()}


def measure(told: str, folder: Path, act: Callable[[list[str]], object], server: Pictures) -> dict[str, Any]:
    """What one command made, and how long it took."""
    root, said = folder / "run", list[str]()
    before = {file for parts in state(root).values() for file in parts.values()}
    asked, started = sum(server.asked.values()), time.monotonic()
    act(said)
    found: dict[str, Any] = {"command": told, "seconds": round(time.monotonic() - started, 2)}
    found["fetched"] = sum(server.asked.values()) - asked
    for name, parts in state(root).items():
        made = [part for part, file in parts.items() if file not in before]
        found[name] = {"made": len(made), "as_they_are": len(parts) - len(made)}
    done = [line for line in said if ": done in " in line]
    found["steps"] = {line.partition(":")[0]: float(line.partition("done in ")[2].split()[0]) for line in done}
    for answer in audit(root, 1, ["accounting"]):
        check_accounting(answer)
    return found


def cut_short(part: Path) -> None:
    """Damage the file that a part is."""
    data = part.read_bytes()
    part.resolve().write_bytes(data[: len(data) // 2])


def rows(folder: Path, num_rows: int, num_added: int, num_failing: int, *own: str) -> list[dict[str, Any]]:
    """One row for each command; `own` are settings of all of them."""
    from tests.support.tiny_pipeline import save_tiny

    save_tiny(folder / "captioner", 32, seed=0)
    save_tiny(folder / "filter", 24, seed=1)
    per_shard = -(-num_rows // 4)
    every = max(1, num_rows // num_failing)
    with served({*range(0, num_rows, every)}) as server:
        first = write_list(folder / "first.tsv", server, range(num_rows))
        second = write_list(folder / "second.tsv", server, range(num_rows, num_rows + num_added))

        def run(lists: list[str], retry: str | None = None) -> Callable[[list[str]], object]:
            config = config_of(folder, lists, per_shard, own)
            return lambda said: run_rounds(config, 1, said.append, retry=retry)

        found = [
            measure("first run", folder, run([first]), server),
            measure("again", folder, run([first]), server),
            measure(f"a list of {num_added:,} added", folder, run([first, second]), server),
        ]
        server.is_short = False
        found.append(measure(f"{num_failing:,} rows retried", folder, run([first, second], "failed"), server))
        server.is_short = True  # so that the part comes out as it was
        for table in ("images", "captions"):
            cut_short(folder / "run" / TABLES[table] / "part-00001.parquet")
            found.append(measure(f"a part of {table} damaged", folder, run([first, second]), server))
        found.append(measure("the first list alone", folder, run([first]), server))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--added", type=int, default=1_000)
    parser.add_argument("--failing", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = rows(Path(folder), arguments.rows, arguments.added, arguments.failing)
    if arguments.json:
        print(json.dumps({"rows": arguments.rows, "commands": found}))
        return
    print(f"{'':30}{'seconds':>9}{'fetched':>9}" + "".join(f"{name:>22}" for name in TABLES))
    for row in found:
        parts = [f"{row[name]['made']} made, {row[name]['as_they_are']} stay" for name in TABLES]
        print(f"{row['command']:30}{row['seconds']:>9}{row['fetched']:>9,}" + "".join(f"{one:>22}" for one in parts))


if __name__ == "__main__":
    main()
