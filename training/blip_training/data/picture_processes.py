"""Child processes that decode pictures from outside: one that hangs, fills memory or crashes costs a row, not the run.

A child decodes picture after picture. The kernel's timers end it if a picture takes too long, its memory is limited,
and it ends with its parent, however that ends: its standard input ends then.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Self

from blip_bootstrap.errors import RunFailed
from blip_training.data import picture_child
from blip_training.data.decode import PictureError
from blip_training.data.picture_child import Answer, Work
from blip_training.data.picture_messages import BUFFER_BYTES, read_message, write_message
from blip_training.runtime.child_process import Child, how_it_ended, start_child, stop_child

ATTEMPTS = 2

ENDED = (EOFError, OSError, ValueError)
"""What reading from and writing to a child raises that has ended, or was ended by another thread."""


class PictureProcesses:
    """Up to `count` children that do `work`, one picture each at a time, for any number of threads.

    `timeout_s` limits the processor time of a picture. The first child starts at once, the others when needed. They end
    with `close`, with this object, and with the process that made it.
    """

    def __init__(self, work: Work, max_pixels: int, timeout_s: float, count: int = 1) -> None:
        self._settings, self._timeout_s, self._count = pickle.dumps((work, max_pixels, timeout_s)), timeout_s, count
        self._begin()

    def __call__(self, body: bytes) -> Answer:
        """Do `work` in a child. Raises the PictureError that it raised, or one of class decode_timeout or decoder_died.

        Raises RunFailed if no child starts.
        """
        return self.submit(body).result()

    def submit(self, body: bytes) -> Future[Answer]:
        """Give a picture to a child, waiting while its pipe is full; the future has what a call returns or raises.

        A pipe holds some 64 KB: the pictures after the one in work, without which a child would wait for its next.
        """
        if os.getpid() != self._pid:
            self._begin()  # after a fork: the children belong to the parent
        return min(self._children, key=_num_waiting).submit(body)

    @property
    def cpu_s(self) -> float:
        """Seconds of processor time that the pictures took."""
        return sum(child.cpu_s for child in self._children)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the children."""
        self._end()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._children = [_Decoder(self._settings, self._timeout_s) for _ in range(self._count)]
        self._children[0].start()
        self._end = weakref.finalize(self, _end, self._children, self._pid)


def _num_waiting(child: _Decoder) -> int:
    return child.num_waiting


def _end(children: Sequence[_Decoder], pid: int) -> None:
    for child in children if os.getpid() == pid else ():
        child.close()


@dataclass
class _Asked:
    """A picture that was given to a child; `num_deaths`: how often the child ended while it had it in work."""

    body: bytes
    answer: Future[Answer] = field(default_factory=Future)
    num_deaths: int = 0


class _Decoder:
    """One child, and those after it where it ends; a thread reads its answers, in the order of the pictures."""

    def __init__(self, settings: bytes, timeout_s: float) -> None:
        self._settings, self._timeout_s = settings, timeout_s
        self._lock = threading.Lock()
        self._process: Child | None = None
        self._waiting: deque[_Asked] = deque()
        self._closed, self.cpu_s = False, 0.0

    @property
    def num_waiting(self) -> int:
        """The number of pictures that it has."""
        return len(self._waiting)

    def start(self) -> None:
        """Start the child and the thread that reads its answers."""
        self._process = self._begun()
        threading.Thread(target=self._read_on, args=(self._process,), name="decoded", daemon=True).start()

    def submit(self, body: bytes) -> Future[Answer]:
        """Send a picture."""
        asked = _Asked(body)
        with self._lock:
            if not self._process:
                self.start()
            assert self._process
            self._waiting.append(asked)
            try:
                write_message(_input(self._process), body)
            except OSError:
                pass  # the child has ended: the thread that reads sees to it
            except BaseException:  # Ctrl-C or the like, perhaps within the message
                self._process.kill()
                raise
        return asked.answer

    def close(self) -> None:
        """End the child; what it had is cancelled."""
        self._closed = True
        if process := self._process:
            stop_child(process)
        with self._lock:
            self._give_up(None)

    def _begun(self) -> Child:
        process = start_child(picture_child.__name__, buffer_bytes=BUFFER_BYTES)
        with suppress(OSError):  # if it has ended already, the first reading says so
            write_message(_input(process), self._settings)
        return process

    def _read_on(self, started: Child) -> None:
        """Take answers; where the child ends, another does what it had."""
        process: Child | None = started
        try:
            _check_start(started)
            while process:
                try:
                    while True:
                        self._take(read_message(_output(process)))
                except ENDED:
                    with self._lock:
                        process = self._process = self._successor(process)
        except RunFailed as error:
            with self._lock:
                self._give_up(error)

    def _successor(self, ended: Child) -> Child | None:
        """Do the pictures of a child that has ended in another, one at a time; the first of them ended it.

        Returns None where it had none. Raises RunFailed if no child starts.
        """
        code = stop_child(ended)
        while self._waiting and not self._closed:
            self._blame(self._waiting[0], code)
            process = self._process = self._begun()
            try:
                _check_start(process)
                while self._waiting and not self._closed:
                    write_message(_input(process), self._waiting[0].body)
                    self._take(read_message(_output(process)))
                if not self._closed:
                    return process
            except ENDED:
                pass
            code = stop_child(process)
        return None

    def _take(self, message: tuple[bytes, bytes]) -> None:
        header, content = json.loads(message[0]), message[1]
        self.cpu_s += header.pop("cpu_s")
        answer = self._waiting.popleft().answer
        if "error_class" in header:
            answer.set_exception(PictureError(header["error_class"], header["message"]))
        else:
            answer.set_result((header, content))

    def _blame(self, asked: _Asked, code: int) -> None:
        """Count a death for the picture that was in work, which is its last where it was too slow, or the second."""
        asked.num_deaths += 1
        if code in (-signal.SIGPROF, -signal.SIGALRM):
            late = PictureError("decode_timeout", f"took over {self._timeout_s:g} s (decode_timeout_s)")
            self._waiting.popleft().answer.set_exception(late)
        elif asked.num_deaths == ATTEMPTS:
            died = PictureError("decoder_died", f"the decoder {how_it_ended(code)}, {ATTEMPTS} times")
            self._waiting.popleft().answer.set_exception(died)

    def _give_up(self, error: RunFailed | None) -> None:
        self._process = None
        while self._waiting:
            answer = self._waiting.popleft().answer
            answer.set_exception(error) if error else answer.cancel()


def _check_start(process: Child) -> None:
    """Wait until the child is ready. Raises RunFailed with its own words where it cannot start."""
    try:
        failure = read_message(_output(process))[0].decode()
    except ENDED:
        failure = f"it {how_it_ended(stop_child(process))}"
    if failure:
        stop_child(process)
        raise RunFailed(f"the process that decodes pictures does not start: {failure}")


def _input(process: Child) -> IO[bytes]:
    assert process.stdin
    return process.stdin


def _output(process: Child) -> IO[bytes]:
    assert process.stdout
    return process.stdout
