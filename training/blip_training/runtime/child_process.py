"""Python processes that work for this one through pipes, and end when it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

Child = subprocess.Popen[bytes]


def start_child(module: str, *arguments: str) -> Child:
    """Run a module's main part with pipes to its standard input and output.

    No fork of this process is made, whose threads may hold locks. The child is to end where its input ends. In a group
    of its own it is not reached by Ctrl-C: its parent deals with that, and ends it or is ended.
    """
    # It imports from where this process does; without -P also a numpy.py in the working directory.
    command = [sys.executable, "-P", "-W", "ignore", "-m", module, *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, process_group=0)


def stop_child(child: Child) -> int:
    """Kill it, if it has not ended; how it ended, as `subprocess` tells."""
    child.kill()
    for stream in (child.stdin, child.stdout):
        with suppress(OSError):  # what was not yet written has nobody to read it
            stream.close()  # type: ignore[union-attr]
    return child.wait()


def how_it_ended(code: int) -> str:
    """In words that go on from "the process"."""
    if code == -signal.SIGKILL:
        return "was killed, as Linux does where memory runs out"
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
