"""What becomes of each evil of the web, by the download step and by img2dataset 1.47, as a table.

    .venv/bin/python tests/bench/evil_server.py [--json]

The server of tests/support/evil_server.py; its endless body ends after 200 MB, its dripping one after 30 s. Both have
2 s for a try and one more try. img2dataset's own functions (`download_image_with_retry`, `Resizer`) are called as its
workers call them, each URL in a process of its own that is ended after 20 s.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in (".", "training", "pipelines")]
warnings.simplefilter("ignore")

from blip_bootstrap.config import DownloadConfig  # noqa: E402
from blip_pipelines.fetch.proxies import Proxies  # noqa: E402
from blip_pipelines.ingest.fetched_rows import fetch_rows  # noqa: E402
from blip_pipelines.ingest.pictures import WebStore  # noqa: E402
from tests.support.evil_server import EVILS, ROBOTS, EvilNames, EvilServer, evil_server  # noqa: E402

TIMEOUT_S, GIVEN_S = 2, 20
NOAI = {"noai", "noimageai", "noindex", "noimageindex"}
"""The directives that img2dataset refuses by default."""


def ours(server: EvilServer, url: str, is_own: bool) -> str:
    """The row's status, or its error class."""
    config = DownloadConfig(timeout_s=TIMEOUT_S, max_bytes=1_000_000, allow_private_addresses=not is_own)
    own = frozenset({server.host, server.silent} if is_own else ())
    row = {"key": "0000000000", "url": url, "status": None}
    with WebStore(config) as store:
        (found,) = fetch_rows([row], config, own, store, Proxies())
    return f"`{found['error_class']}`" if found["error_class"] else f"success, {found['width']} x {found['height']}"


def theirs(url: str) -> str:
    """What img2dataset says, in a process of its own."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    worker = multiprocessing.get_context("fork").Process(target=_theirs, args=(url, sender), daemon=True)
    worker.start()
    found = receiver.recv() if receiver.poll(GIVEN_S) else f"no end within {GIVEN_S} s"
    worker.kill()
    worker.join()
    return str(found)


def _theirs(url: str, sender: Any) -> None:
    from img2dataset.downloader import download_image_with_retry
    from img2dataset.resizer import Resizer

    _, stream, error = download_image_with_retry((0, url), TIMEOUT_S, 1, None, NOAI)
    if error is not None:
        sender.send(f"failed_to_download: {' '.join(error.split())[:90]}")
        return
    size = len(stream.getvalue())
    _, width, height, _, _, error = Resizer(256, "keep_ratio", True)(stream)
    told = f"failed_to_resize: {' '.join(error.split())[:60]}" if error else f"success, {width} x {height}"
    sender.send(told if size < 1_000_000 else f"{told} ({size / 1e6:,.0f} MB read)")


def measure() -> list[dict[str, Any]]:
    names, found = EvilNames(), []
    for name, stand_in in (("getaddrinfo", names.getaddrinfo), ("create_connection", names.create_connection)):
        setattr(socket, name, stand_in)
    import img2dataset.downloader
    import img2dataset.resizer  # noqa: F401  # before the fork: it takes seconds

    for name, given, _, _ in (*EVILS, ROBOTS):
        row: dict[str, Any] = {"evil": name}
        for who in ("ours", "img2dataset"):
            with evil_server(endless_bytes=200_000_000, drip_s=30.0) as server:
                silent = socket.create_connection(("127.0.0.1", int(server.silent.partition(":")[2])))
                url, started = server.url(given), time.perf_counter()
                row[who] = ours(server, url, name != ROBOTS[0]) if who == "ours" else theirs(url)
                row[f"{who}_s"] = round(time.perf_counter() - started, 1)
                silent.close()
        found.append(row)
        print(f"| {name} | {row['ours']} | {row['img2dataset']} |", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    found = measure()
    if arguments.json:
        print(json.dumps({"evils": found}))
        return
    print("| evil | this | img2dataset 1.47 |\n|---|---|---|")
    for row in found:
        print(f"| {row['evil']} | {row['ours']} | {row['img2dataset']} |")


if __name__ == "__main__":
    main()
