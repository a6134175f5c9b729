"""A setting of the C library: keep the memory of a model's activations for the next ones."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8
"""The parameters of mallopt, from glibc's malloc.h."""

TOP_PAD_BYTES = 64 * 2**20


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, if its C library is glibc; otherwise do nothing.

    By default glibc gives each block of more than 32 MB, and the free end of its heap, back to the kernel at once.
    Each activation then comes as fresh pages, which the kernel clears and maps one by one: a tenth of an image's time
    at base size, a sixth of a bfloat16 training step's (tests/bench/engine.py, training_step.py). The process's peak
    stays what it was; between peaks it holds more.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    # TRIM_THRESHOLD -1: never give back; an int could say no more than 2 GB. ARENA_MAX 1: the heaps of further threads
    # hold 64 MB each, and map each larger block afresh.
    settings = {MMAP_MAX: 0, TRIM_THRESHOLD: -1, TOP_PAD: TOP_PAD_BYTES, ARENA_MAX: 1}
    for name, value in settings.items():
        mallopt(name, value)
