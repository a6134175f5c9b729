"""Child processes that decode pictures from outside: one that hangs, fills memory or crashes costs a row, not the run.

A child decodes picture after picture. The kernel's timers end it if a picture takes too long, its memory is limited,
and it ends with its parent, however that ends: its standard input ends then.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import struct
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, LifoQueue
from types import TracebackType
from typing import IO, Any, Self

from PIL import AvifImagePlugin, Image

from blip_bootstrap.errors import RunFailed
from blip_training.data.decode import PictureError
from blip_training.runtime.child_process import how_it_ended, start_child, stop_child

Answer = tuple[dict[str, Any], bytes]

Work = Callable[[bytes], Answer]
"""What a child does with a picture's bytes: a function that can be pickled and gives JSON values and bytes."""

ATTEMPTS = 2

BYTES_PER_PIXEL, BYTES_BESIDE = 24, 400_000_000
"""The memory limit: for each allowed pixel, and beside them for the file, the decoder's tables and the result."""

WAIT_FACTOR = 10
"""The limit by the clock, in multiples of that of processor time: other processes may use the processor."""

_SIZE = struct.Struct("<Q")


class PictureProcesses:
    """Up to `count` children that do `work`, one picture each at a time; `count` threads may call this.

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
        if os.getpid() != self._pid:
            self._begin()  # after a fork: the children belong to the parent
        child = self._idle.get()
        try:
            for _ in range(ATTEMPTS):
                child = child or _Child(self._settings)
                with suppress(EOFError, OSError):
                    return self._result(child.ask(body))
                code, child = child.stop(), None
                if code in (-signal.SIGPROF, -signal.SIGALRM):
                    raise PictureError("decode_timeout", f"took over {self._timeout_s:g} s (decode_timeout_s)")
        finally:
            if child and child.busy:  # Ctrl-C or the like ended the wait: nobody reads its answer
                child.stop()
                child = None
            self._idle.put(child)
        raise PictureError("decoder_died", f"the decoder {how_it_ended(code)}, {ATTEMPTS} times")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the children."""
        self._end()

    def _begin(self) -> None:
        self._pid, self.cpu_s = os.getpid(), 0.0
        self._idle: LifoQueue[_Child | None] = LifoQueue()
        for _ in range(self._count - 1):
            self._idle.put(None)
        self._idle.put(_Child(self._settings))
        self._end = weakref.finalize(self, _end, self._idle, self._pid)

    def _result(self, answer: Answer) -> Answer:
        header, content = answer
        self.cpu_s += header.pop("cpu_s")
        if "error_class" in header:
            raise PictureError(header["error_class"], header["message"])
        return header, content


class _Child:
    def __init__(self, settings: bytes) -> None:
        self._process = start_child(__name__)
        self._started = self.busy = False
        with suppress(OSError):  # if it has ended already, `ask` says so
            _write(self._to, settings)

    @property
    def _to(self) -> IO[bytes]:
        assert self._process.stdin
        return self._process.stdin

    @property
    def _from(self) -> IO[bytes]:
        assert self._process.stdout
        return self._process.stdout

    def ask(self, body: bytes) -> Answer:
        """Send a picture, read the answer. Raises EOFError or OSError if the child ends, RunFailed if none starts."""
        self.busy = True
        if not self._started:
            self._check_start()
        _write(self._to, body)
        answer = json.loads(_read(self._from)), _read(self._from)
        self.busy = False
        return answer

    def _check_start(self) -> None:
        try:
            failure = _read(self._from).decode()
        except EOFError:
            failure = f"it {how_it_ended(self.stop())}"
        if failure:
            raise RunFailed(f"the process that decodes pictures does not start: {failure}")
        self._started = True

    def stop(self) -> int:
        """Kill the child unless it has ended; its return code."""
        return stop_child(self._process)


def _end(idle: LifoQueue[_Child | None], pid: int) -> None:
    with suppress(Empty):
        while os.getpid() == pid:
            if child := idle.get_nowait():
                child.stop()


def _write(stream: IO[bytes], content: bytes) -> None:
    stream.write(_SIZE.pack(len(content)))
    stream.write(content)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes:
    """Read one message. Raises EOFError if the stream ends within it."""
    head = stream.read(_SIZE.size)
    size = _SIZE.unpack(head)[0] if len(head) == _SIZE.size else 0
    content = stream.read(size)
    if len(head) < _SIZE.size or len(content) < size:
        raise EOFError
    return content


def serve() -> None:
    """The child's main function: answer each picture that comes on standard input, until that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints must not get between the answers
    try:
        work, max_pixels, timeout_s = pickle.loads(_read(requests))
        _load_decoders(max_pixels)
        memory_bytes = BYTES_BESIDE + BYTES_PER_PIXEL * max_pixels
        _limit(memory_bytes)
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001  # reported to the parent
        _write(answers, f"{type(error).__name__}: {error}".encode())
        return
    _write(answers, b"")
    with suppress(EOFError, BrokenPipeError):
        while True:
            header, content = _answer(work, _read(requests), timeout_s, memory_bytes)
            _write(answers, json.dumps(header).encode())
            _write(answers, content)


def _load_decoders(max_pixels: int) -> None:
    """Load all decoders before any picture, whose time and memory they would count against."""
    import cv2  # start-up: the parent, which imports this module too, has no use for it

    cv2.setNumThreads(1)
    Image.init()
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    Image.MAX_IMAGE_PIXELS = max_pixels  # PIL refuses twice as many, before it allocates for some formats


def _limit(memory_bytes: int) -> None:
    """Limit this process to `memory_bytes` more than it maps now; if memory runs out, Linux is to kill it first."""
    for name in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(name, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGPROF, signal.SIGALRM))
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # decoders in C print warnings there
        os.dup2(quiet, stream)
    with suppress(OSError):  # both are Linux's
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with suppress(OSError, ValueError):
        mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _answer(work: Work, body: bytes, timeout_s: float, memory_bytes: int) -> Answer:
    started = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, timeout_s)
    signal.setitimer(signal.ITIMER_REAL, WAIT_FACTOR * timeout_s)
    try:
        header, content = work(body)
    except PictureError as error:
        header, content = {"error_class": error.error_class, "message": error.message}, b""
    except MemoryError:
        message = f"decoding it takes over {memory_bytes // 1_000_000:,} MB of memory"
        header, content = {"error_class": "decoder_died", "message": message}, b""
    except Exception as error:  # noqa: BLE001  # any failure of a picture is its row's
        header, content = {"error_class": "other", "message": f"{type(error).__name__}: {error}"}, b""
    finally:
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
    return header | {"cpu_s": time.process_time() - started}, content


if __name__ == "__main__":
    serve()
