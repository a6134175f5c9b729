"""How a command ends before its work is done: by Ctrl-C, or by the SIGTERM of a batch system or container."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from blip_bootstrap.errors import INTERRUPTED, TERMINATED


class Terminated(SystemExit):
    """SIGTERM came. What is open is closed on its way up, and the process ends with 143, as a shell has it."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


def heed_sigterm() -> None:
    """Raise Terminated in the main thread on SIGTERM; those that come while the command ends change nothing.

    `timeout` and some batch systems send two. Ray puts a handler of its own in the place of this one when it starts,
    so that this is to be called again then. Does nothing in other threads, or where SIGTERM is to be ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


@contextmanager
def ended_early(goes_on: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM in the body are no failures: one line says that `goes_on`, and the process ends.

    With 130 or 143.
    """
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"interrupted; {goes_on}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except Terminated:
        typer.echo(f"terminated; {goes_on}", err=True)
        raise


def speak_plainly() -> None:
    """Let standard output and error show what their encoding lacks as `\\u00e9`, instead of ending the command.

    Under `LANG=C` or a Latin-1 locale a single letter of a caption would.
    """
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
