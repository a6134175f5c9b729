"""The child process that does the work of PictureProcesses: one picture after another, within limits.

It ends with its parent, however that ends: its standard input ends then.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import AvifImagePlugin, Image

from blip_training.data.decode import PictureError
from blip_training.data.picture_messages import BUFFER_BYTES, read_message, write_message

Answer = tuple[dict[str, Any], bytes]

Work = Callable[[bytes], Answer]
"""What a child does with a picture's bytes: a function that can be pickled and gives JSON values and bytes."""

BYTES_PER_PIXEL, BYTES_BESIDE = 24, 400_000_000
"""The memory limit: for each allowed pixel, and beside them for the file, the decoder's tables and the result."""

WAIT_FACTOR = 10
"""The limit by the clock, in multiples of that of processor time: other processes may use the processor."""


def serve() -> None:
    """The child's main function: answer each picture that comes on standard input, until that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = os.fdopen(os.dup(0), "rb", BUFFER_BYTES), os.fdopen(os.dup(1), "wb", BUFFER_BYTES)
    os.dup2(2, 1)  # prints must not get between the answers
    try:
        work, max_pixels, timeout_s = pickle.loads(read_message(requests)[0])
        _load_decoders(max_pixels)
        memory_bytes = BYTES_BESIDE + BYTES_PER_PIXEL * max_pixels
        _limit(memory_bytes)
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001  # reported to the parent
        write_message(answers, f"{type(error).__name__}: {error}".encode())
        return
    write_message(answers, b"")
    with suppress(EOFError, BrokenPipeError):
        while True:
            header, content = _answer(work, read_message(requests)[0], timeout_s, memory_bytes)
            write_message(answers, json.dumps(header).encode(), content)


def _load_decoders(max_pixels: int) -> None:
    """Load all decoders before any picture, whose time and memory they would count against."""
    import cv2  # start-up: who imports this module for its names has no use for it

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
