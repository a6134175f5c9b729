"""The local page of `audit label`: a picture, a text, and yes, no or unsure by keyboard or button."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import parse_qs

from blip_bootstrap.errors import BlipBootstrapError, InputError
from blip_bootstrap.html.gallery import picture_html
from blip_bootstrap.labels.sample import find_round
from blip_bootstrap.progress import Say
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.sql_text import literal
from blip_bootstrap.query.views import connect
from blip_bootstrap.select.enough import enough
from blip_bootstrap.storage.files import check_writable
from blip_bootstrap.storage.labels import ANSWERS, read_labels, write_labels
from blip_bootstrap.storage.run_folder import labels_path

HOST = "127.0.0.1"

IDLE_S = 10.0
"""How long a connection may be idle: browsers open some in advance and keep them."""

POLL_S = 0.2


class Labelling:
    """A sample that is being answered: its texts, which of them is next, and the file with the answers."""

    def __init__(self, root: Path, number: int | None = None) -> None:
        self.path = labels_path(root, find_round(root, number))
        self.rows = read_labels(self.path)
        self.token = secrets.token_urlsafe(16)
        self._lock = threading.Lock()
        self._num_at_work = 0
        keys = ", ".join(sorted({literal(row["key"]) for row in self.rows})) or "''"
        with connect(root) as connection:
            found = query(connection, f"SELECT key, jpg FROM images WHERE key IN ({keys})").to_pydict()
        self.pictures: dict[str, bytes | None] = dict(zip(found["key"], found["jpg"], strict=True))

    @property
    def next(self) -> int | None:
        """The index of the next text without an answer; None where all have one."""
        return next((at for at, row in enumerate(self.rows) if row["answer"] is None), None)

    @property
    def num_answered(self) -> int:
        """How many texts have an answer."""
        return sum(row["answer"] is not None for row in self.rows)

    @property
    def num_at_work(self) -> int:
        """Requests that are being answered; the command ends after the last page was sent."""
        with self._lock:
            return self._num_at_work

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count the body as a request that is being answered."""
        with self._lock:
            self._num_at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_at_work -= 1

    def answer(self, at: int, answer: str) -> None:
        """Save the answer to the text at index `at`; `back` removes the one before. ValueError for other answers."""
        if answer == "back":
            at, answer = max(0, at - 1), ""
        elif answer not in ANSWERS:
            raise ValueError(f"answer {answer!r} is none of {', '.join(ANSWERS)}")
        with self._lock:
            before = self.rows[at]["answer"]
            self.rows[at]["answer"] = answer or None
            try:
                write_labels(self.path, self.rows)
            except Exception:
                self.rows[at]["answer"] = before
                raise

    def page(self) -> str:
        """The page that asks about the next text, without its score, or says that all texts have an answer."""
        at = self.next
        template = Template(files("blip_bootstrap.html").joinpath("label.html").read_text(encoding="utf-8"))
        question = f"<p>All texts have an answer. {escape(enough(self.rows))}</p>" if at is None else self._question(at)
        style = files("blip_bootstrap.html").joinpath("style.css").read_text(encoding="utf-8")
        progress = f"{self.num_answered} of {len(self.rows)} answered"
        return template.substitute(question=question, progress=progress, style=style)

    def _question(self, at: int) -> str:
        row = self.rows[at]
        buttons = "".join(
            f'<button name="answer" value="{answer}" accesskey="{answer[0]}"><kbd>{answer[0]}</kbd> {answer}</button>'
            for answer in (*ANSWERS, "back")
        )
        return (
            f'<figure class="asked">{picture_html(self.pictures.get(row["key"]), "the picture to judge")}'
            f"<figcaption>{escape(row['caption'] or '')}</figcaption></figure>"
            f'<form method="post" action="/"><input type="hidden" name="at" value="{at}">'
            f'<input type="hidden" name="token" value="{self.token}">{buttons}</form>'
        )


def serve_labels(root: Path, number: int | None, port: int, say: Say) -> Path:
    """Serve the page on loopback until every text has an answer; the path of the labels file.

    Each answer is saved before the next text is shown, so that stopping loses nothing. Raises InputError where the
    labels cannot be written or the port is taken.
    """
    labelling = Labelling(root, number)
    check_writable(labelling.path)
    try:
        server = LabelServer(port, labelling)
    except OSError as error:
        raise InputError(f"port {port} cannot be opened ({error.strerror}); give another --port, or 0") from error
    with server:
        say(f"open http://{HOST}:{server.server_port}/ and answer with y, n or u; Ctrl-C stops, and nothing is lost")
        while labelling.next is not None or labelling.num_at_work:
            server.handle_request()
    say(f"all {len(labelling.rows)} texts are answered: {labelling.path}")
    return labelling.path


class LabelServer(ThreadingHTTPServer):
    """A server with a thread for each connection, so that an idle one keeps nobody waiting."""

    daemon_threads = True
    timeout = POLL_S

    def __init__(self, port: int, labelling: Labelling) -> None:
        self.labelling = labelling
        super().__init__((HOST, port), _Handler)

    def handle_error(self, *_: object) -> None:
        """Print nothing: a browser that closed the connection asks again."""


class _Handler(BaseHTTPRequestHandler):
    """Answers requests that came from this server's own pages."""

    server: LabelServer
    timeout = IDLE_S

    def do_GET(self) -> None:
        if self._is_ours():
            self._send(self.server.labelling.page())

    def do_POST(self) -> None:
        if not self._is_ours():
            return
        with self.server.labelling.at_work():
            self._take(self._sent())

    def _sent(self) -> dict[str, str]:
        length = self.headers.get("Content-Length", "")
        body = self.rfile.read(min(int(length), 10_000)) if length.isdecimal() else b""
        return {name: values[0] for name, values in parse_qs(body.decode(errors="replace")).items()}

    def _take(self, sent: dict[str, str]) -> None:
        if not secrets.compare_digest(sent.get("token", "").encode(), self.server.labelling.token.encode()):
            self.send_error(403, "not sent by this page")
        elif not sent.get("at", "").isdecimal() or int(sent["at"]) >= len(self.server.labelling.rows):
            self.send_error(400, "no such text")
        elif sent.get("answer") not in (*ANSWERS, "back"):
            self.send_error(400, "no such answer")
        else:
            try:
                self.server.labelling.answer(int(sent["at"]), sent["answer"])
            except (BlipBootstrapError, OSError) as error:
                self.send_error(500, "the answer is not stored", str(error))
            else:
                self._send(self.server.labelling.page())

    def _is_ours(self) -> bool:
        """Whether the request names this host; another name that resolves to loopback belongs to some web site."""
        if self.headers.get("Host", "").rsplit(":", 1)[0] in (HOST, "localhost"):
            return True
        self.send_error(403, "ask by the address that was printed")
        return False

    def _send(self, page: str) -> None:
        content = page.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Print nothing for a request."""
