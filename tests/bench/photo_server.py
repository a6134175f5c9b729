"""A fast web server on loopback for benchmarks of downloads: every photograph in memory, connections kept.

    .venv/bin/python tests/bench/photo_server.py FOLDER

Prints its port, and ends when its standard input does. `/17.jpg` is the photograph 17 modulo their number; nothing else
is there.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import threading
from pathlib import Path


class Photographs(asyncio.Protocol):
    """Answers GET requests, one after another on each connection, from `bodies`."""

    def __init__(self, bodies: list[bytes]) -> None:
        self._bodies, self._asked = bodies, b""
        self._to: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for the answers."""
        assert isinstance(transport, asyncio.Transport)
        self._to = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request whose headers are whole."""
        self._asked += data
        while b"\r\n\r\n" in self._asked:
            head, _, self._asked = self._asked.partition(b"\r\n\r\n")
            number = head.split(b" ", 2)[1].strip(b"/").partition(b".")[0]
            last = b"connection: close" in head.lower()
            if not number.isdigit():  # robots.txt and the like
                self._to.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                continue
            body = self._bodies[int(number) % len(self._bodies)]
            kind = b"Content-Type: image/jpeg\r\nServer: photographs\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
            size = b"Content-Length: %d\r\n" % len(body)
            self._to.write(b"HTTP/1.1 200 OK\r\n" + kind + size + b"Connection: close\r\n" * last + b"\r\n" + body)
            if last:
                self._to.close()


async def _serve(bodies: list[bytes]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Photographs(bodies), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True).start()
    await ended.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder with the photographs")
    photographs = [file.read_bytes() for file in sorted(parser.parse_args().folder.iterdir())]
    gc.freeze()
    asyncio.run(_serve(photographs))
