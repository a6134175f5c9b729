"""A real browser that draws pages of ours at a given width, and tells what it saw."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# A page stands in a frame, since a window cannot be made narrower than 500 px; the frames lie upon each other.
FRAMES = """<!doctype html><title>frames</title><body style="margin:0"><script>{script}</script>
{frames}<pre id="seen"></pre></body>"""
FRAME = """<iframe id="{name}" src="/page.html?{name}" onload="look(this)"
style="border:0;position:absolute;top:0;left:0;width:{width}px;height:900px"></iframe>"""

ATTEMPTS = 3
"""On a loaded machine the browser now and then leaves before its frames have loaded."""

PROBE = (Path(__file__).parent / "browser_probe.js").read_text(encoding="utf-8")


@dataclass
class Seen:
    """What the browser measured (`browser_probe.js`), said on its console, and asked the server for."""

    measured: dict[str, Any]
    console: list[str]
    asked: list[str] = field(default_factory=list)


def look(page: str, width_px: int, profile: Path, dark: bool = False) -> Seen:
    """Draw `page` in a frame of `width_px`; `profile` is a folder for the browser's own files."""
    return look_at({(page, width_px)}, profile, dark)[page, width_px]


def look_at(views: Collection[tuple[str, int]], profile: Path, dark: bool = False) -> dict[tuple[str, int], Seen]:
    """Draw pages at widths in px, all by one browser: what it saw of each, and what it said and asked for of all."""
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        "--window-size=1400,1000", "--enable-logging=stderr",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
    ]  # fmt: skip
    named = {str(number): view for number, view in enumerate(views)}
    frames = "".join(FRAME.format(name=name, width=width) for name, (_, width) in named.items())
    pages = {f"/page.html?{name}": page for name, (page, _) in named.items()}
    for attempt in range(ATTEMPTS):
        with serving({**pages, "/": FRAMES.format(script=PROBE, frames=frames)}) as (address, asked):
            command = [str(CHROMIUM), *flags, f"--user-data-dir={profile / str(attempt)}", "--dump-dom", address]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        told = json.loads(html.unescape(done.stdout.split('<pre id="seen">')[1].split("</pre>")[0]) or "{}")
        if told.keys() == named.keys():
            break
    else:
        raise AssertionError(f"frames {sorted(named.keys() - told.keys())} told nothing: {done.stderr[-2000:]}")
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {view: Seen(told[name], console, asked) for name, view in named.items()}


def printed(page: str, profile: Path) -> str:
    """The words of `page` on paper: printed to PDF, and read by poppler."""
    source, pdf = profile / "printed.html", profile / "printed.pdf"
    source.write_text(page, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
    command = [str(CHROMIUM), *flags, f"--print-to-pdf={pdf}", source.as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    return subprocess.run(["pdftotext", pdf, "-"], capture_output=True, text=True, check=True).stdout


@contextmanager
def serving(pages: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """A loopback server of `pages`, its address, and the paths that it is asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path.partition("?")[0])
            content = pages.get(self.path, "").encode()
            self.send_response(200 if content else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 64  # of 5 a browser with many frames finds no room

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
