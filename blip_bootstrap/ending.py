"""How a command ends before its work is done: by Ctrl-C, or by the SIGTERM of a batch system or container."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from blip_bootstrap.errors import INTERRUPTED, TERMINATED

AGAIN_S = 5.0


class Terminated(SystemExit):
    """SIGTERM came. What is open is closed on its way up, and the process ends with 143, as a shell has it."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


class _Watch:
    """What is known of a SIGTERM: when it was last raised, and whether the command is ending."""

    raised_at: float | None = None
    ending = False


def heed_sigterm() -> None:
    """Raise Terminated in the main thread on SIGTERM; others that come while the command ends change nothing.

    `timeout` and some batch systems send two. What is raised while a library runs Python of its own (a finalizer, a
    callback from C) is printed there and lost, so that it is raised again every few seconds until the command ends.
    Does nothing in other threads, or where SIGTERM is to be ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    now = time.monotonic()
    if _Watch.ending or (_Watch.raised_at is not None and now - _Watch.raised_at < AGAIN_S):
        return
    if _Watch.raised_at is None:
        threading.Thread(target=_insist, name="sigterm", daemon=True).start()
    _Watch.raised_at = now
    raise Terminated


def _insist() -> None:
    while not _Watch.ending:
        time.sleep(AGAIN_S + 0.1)
        if not _Watch.ending:
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def sigterm_held() -> Iterator[None]:
    """A SIGTERM that comes in the body is raised after it, for what would be left half done.

    Processes that the body starts never see a SIGTERM, nor do theirs. A handler that the body puts in the place of
    this command's is taken away again.
    """
    handler = signal.getsignal(signal.SIGTERM)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        if handler is _terminate and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def sigterm_came() -> bool:
    """Whether Terminated was raised in this process."""
    return _Watch.raised_at is not None


def note_end() -> None:
    """The command ends: no SIGTERM is to disturb what is done last."""
    _Watch.ending = True


@contextmanager
def ended_early(goes_on: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM in the body are no failures: one line says that `goes_on`, and the process ends (130, 143)."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"interrupted; {goes_on}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except SystemExit:
        # Where Terminated is raised in a call of Ray's core, that raises a SystemExit of its own in its place (2.60).
        if not sigterm_came():
            raise
        note_end()
        typer.echo(f"terminated; {goes_on}", err=True)
        raise Terminated from None


def speak_plainly() -> None:
    """Let standard output and error show what their encoding lacks as `\\u00e9`, instead of ending the command.

    Under `LANG=C` or a Latin-1 locale a single letter of a caption would.
    """
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
