"""Child processes of Python that work through pipes and end when their parent does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

Child = subprocess.Popen[bytes]


def start_child(module: str, *arguments: str, buffer_bytes: int = -1) -> Child:
    """Start `python -m module` with pipes to its standard input and output, buffered here with `buffer_bytes` each.

    The module must end when its input ends. It runs in a process group of its own, so that Ctrl-C reaches the parent
    alone. It is a new interpreter, not a fork: threads of this process may hold locks.
    """
    # -P: else the child would import a numpy.py of the working directory.
    command = [sys.executable, "-P", "-W", "ignore", "-m", module, *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        bufsize=buffer_bytes,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        process_group=0,
    )


def stop_child(child: Child) -> int:
    """Kill the child unless it has ended; its return code as `subprocess` gives it (negative: a signal)."""
    child.kill()
    for stream in (child.stdin, child.stdout):
        with suppress(OSError):  # what is still to be written has no reader
            stream.close()  # type: ignore[union-attr]
    return child.wait()


def how_it_ended(code: int) -> str:
    """How a process ended, in words that complete "the process ..."."""
    if code == -signal.SIGKILL:
        return "was killed, as Linux does where memory runs out"
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
