"""The C library's allocator, told to keep the memory of a model's activations for the next ones."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8
"""glibc's names of its settings, from malloc.h."""

TOP_PAD_BYTES = 64 * 2**20


def keep_freed_memory() -> None:
    """Let this process keep what it frees, where its C library is glibc; elsewhere nothing happens.

    By default glibc gives each block of more than 32 MB, and the free end of its heap, back to the kernel at once.
    Each activation then comes as fresh pages, which the kernel clears and maps one by one: a tenth of the time of an
    image at base size, a sixth of a bfloat16 training step's (tests/bench/engine.py, training_step.py). The peak of
    the process is the same; what it holds between peaks is not given back.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    # -1: nothing is given back, however much lies free; a number of int is 2 GB at most. One heap: the ones of further
    # threads hold 64 MB each, and map every larger block afresh.
    settings = {MMAP_MAX: 0, TRIM_THRESHOLD: -1, TOP_PAD: TOP_PAD_BYTES, ARENA_MAX: 1}
    for name, value in settings.items():
        mallopt(name, value)
