"""Child processes in which pictures from outside are decoded: one that hangs, fills memory or crashes there is a row.

A child is kept from picture to picture. It ends itself by the kernel's timers where a picture takes too long, may map
only so much memory, and ends where its parent does, however that ends, for its standard input ends then.
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
"""What a child does with the bytes of a picture: values for JSON, and bytes. A function that can be pickled."""

ATTEMPTS = 2

BYTES_PER_PIXEL, BYTES_BESIDE = 24, 400_000_000
"""What decoding may take: of each pixel that is allowed, and for the file, its decoder's tables and what is stored."""

WAIT_FACTOR = 10
"""So many times the deadline of processor time may pass by the clock: others may use the processor."""

_SIZE = struct.Struct("<Q")


class PictureProcesses:
    """Up to `count` children that do `work`, each with one picture at a time; may be called from as many threads.

    `timeout_s` is processor time for one picture. The first child starts at once, the others when they are needed.
    They end with `close`, with this object, and with the process that made it.
    """

    def __init__(self, work: Work, max_pixels: int, timeout_s: float, count: int = 1) -> None:
        self._settings, self._timeout_s, self._count = pickle.dumps((work, max_pixels, timeout_s)), timeout_s, count
        self._begin()

    def __call__(self, body: bytes) -> Answer:
        """What the child answers. Raises the PictureError that it raised there, decode_timeout or decoder_died.

        Raises RunFailed where no child starts.
        """
        if os.getpid() != self._pid:
            self._begin()  # after a fork: the children answer the process that started them
        child = self._idle.get()
        try:
            for _ in range(ATTEMPTS):
                child = child or _Child(self._settings)
                with suppress(EOFError, OSError):
                    return self._told(child.ask(body))
                code, child = child.stop(), None
                if code in (-signal.SIGPROF, -signal.SIGALRM):
                    raise PictureError("decode_timeout", f"took over {self._timeout_s:g} s (decode_timeout_s)")
        finally:
            if child and child.busy:  # something else ended the wait, as Ctrl-C does: its answer is nobody's
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

    def _told(self, answer: Answer) -> Answer:
        header, content = answer
        self.cpu_s += header.pop("cpu_s")
        if "error_class" in header:
            raise PictureError(header["error_class"], header["message"])
        return header, content


class _Child:
    def __init__(self, settings: bytes) -> None:
        self._process = start_child(__name__)
        self._started = self.busy = False
        with suppress(OSError):  # one that has ended already is told of when it is asked
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
        """Raises EOFError or OSError where it ends meanwhile, RunFailed where it did not start."""
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
        """Kill it, if it has not ended; how it ended."""
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
    """One message. Raises EOFError where the stream ends before it does."""
    head = stream.read(_SIZE.size)
    size = _SIZE.unpack(head)[0] if len(head) == _SIZE.size else 0
    content = stream.read(size)
    if len(head) < _SIZE.size or len(content) < size:
        raise EOFError
    return content


def serve() -> None:
    """What a child does: it answers each picture that comes on standard input, until that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what else is printed must not get between
    try:
        work, max_pixels, timeout_s = pickle.loads(_read(asked))
        _load_decoders(max_pixels)
        memory_bytes = BYTES_BESIDE + BYTES_PER_PIXEL * max_pixels
        _limit(memory_bytes)
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001  # told to the process that asked for it
        _write(answers, f"{type(error).__name__}: {error}".encode())
        return
    _write(answers, b"")
    with suppress(EOFError, BrokenPipeError):
        while True:
            header, content = _answer(work, _read(asked), timeout_s, memory_bytes)
            _write(answers, json.dumps(header).encode())
            _write(answers, content)


def _load_decoders(max_pixels: int) -> None:
    """Now, so that no picture's time and memory are spent on it."""
    import cv2  # here alone, for this module is the parent's too

    cv2.setNumThreads(1)
    Image.init()
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    Image.MAX_IMAGE_PIXELS = max_pixels  # over twice that PIL refuses, of some formats before it makes room


def _limit(memory_bytes: int) -> None:
    """Let this process map so many bytes more than now, and be the one that Linux ends where memory runs out."""
    for name in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(name, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGPROF, signal.SIGALRM))
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # decoders in C say there what they think of a file
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
    except Exception as error:  # noqa: BLE001  # the row's, as all that a picture does here
        header, content = {"error_class": "other", "message": f"{type(error).__name__}: {error}"}, b""
    finally:
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
    return header | {"cpu_s": time.process_time() - started}, content


if __name__ == "__main__":
    serve()
