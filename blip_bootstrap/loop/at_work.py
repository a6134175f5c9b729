"""The note that a command at work leaves under the root every few seconds, for `status` in another shell.

It only tells: no command that makes something reads it, it is not fsynced, and a run that cannot write it goes on. It
goes when the run has come to its end, and stays, saying how it ended, where that was before.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.progress import never_failing, told_now
from blip_bootstrap.storage.run_folder import read_json
from blip_bootstrap.stores.store import store_of

NOTE = ".progress.json"

EVERY_S, EVERY_STORE_S = 3.0, 30.0
"""Seconds between two notes on a disk (some 0.1 ms each), and on a store, where each is a request that is paid for."""

ENDING_S = 10.0
"""How long a step that has ended waits for its last note: a store that hangs must not keep the run."""

_put_at: dict[Path, float] = {}
"""When the note of a run was last put to its store by this process."""


@contextmanager
def noted(root: Path, number: int | None, name: str, step: str) -> Iterator[None]:
    """Keep the note of a run up to date while the body, a step, makes the artifact `name` of the round `number`."""
    note = _Note(root, {"round": number, "artifact": name, "step": step, "step_since": _now()})
    try:
        yield
    except BaseException as error:
        how = "failed" if isinstance(error, Exception) else "interrupted"
        note.end({"ended": how, "error": " ".join(str(error).split()) or type(error).__name__})
        raise
    note.end({"ended": "done"})


class _Note:
    """The note of one step, and the thread that writes it."""

    def __init__(self, root: Path, about: Mapping[str, Any]) -> None:
        self._root, self._about = root, {**about, "pid": os.getpid(), "host": socket.gethostname()}
        self._end: Mapping[str, Any] = {"ended": None}
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._work, name="note", daemon=True)
        self._thread.start()

    def end(self, how: Mapping[str, Any]) -> None:
        """Write the last note, with what came of the step."""
        self._end = how
        self._ends.set()
        self._thread.join(ENDING_S)

    def _work(self) -> None:
        work, has_ended = None, False
        while True:
            work = told_now() or (work if has_ended else None)  # a step that ended has closed its progress
            with never_failing():
                self._write({**self._about, **self._end, "at": _now(), "work": work})
            if has_ended:
                return
            has_ended = self._ends.wait(EVERY_S)

    def _write(self, content: Mapping[str, Any]) -> None:
        staged = self._root / f".{NOTE}.{uuid.uuid4().hex}.tmp"
        try:
            staged.write_text(json.dumps(content), encoding="utf-8")
            staged.replace(self._root / NOTE)
        finally:
            staged.unlink(missing_ok=True)
        if (store := store_of(self._root)) is None:
            return
        is_last_word = content["ended"] in ("failed", "interrupted")
        if is_last_word or time.monotonic() - _put_at.get(self._root, -EVERY_STORE_S) >= EVERY_STORE_S:
            _put_at[self._root] = time.monotonic()
            store.writer.put(store.key(NOTE), json.dumps(content).encode())


def forget_note(root: Path) -> None:
    """Take the note away: the run has come to its end, and its records say all."""
    with never_failing():
        was_there = (root / NOTE).exists()
        (root / NOTE).unlink(missing_ok=True)
        if was_there and (store := store_of(root)):
            store.delete([NOTE])
            _put_at.pop(root, None)


def read_note(root: Path) -> dict[str, Any]:
    """What the last command left about its work, from wherever it ran; empty where there is nothing, or it is torn."""
    found = [_read(root)]
    if store := store_of(root):
        with store.asking("read", NOTE), suppress(FileNotFoundError, ValueError):
            found.append(dict(json.loads(bytes(store.writer.get(store.key(NOTE)).bytes()))))
    return max(found, key=lambda one: str(one.get("at", "")))


def _read(root: Path) -> dict[str, Any]:
    try:
        return dict(read_json(root / NOTE) or {})
    except InputError:
        return {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
