"""What a poisonous row does to the process that works on it."""

from __future__ import annotations

import ctypes
import time

ACTS = ("segfault", "hang", "memory")


def act(text: str) -> None:
    """Do what the text says to this process, if anything."""
    if "segfault" in text:
        ctypes.string_at(0)
    if "hang" in text:
        time.sleep(3_600)
    if "memory" in text:
        held = []
        while True:
            held.append(b"x" * 200_000_000)  # in large bites: on a busy machine, too, it is memory that ends it
            time.sleep(0.01)  # the thread that watches this process must run
