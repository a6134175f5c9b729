"""How a command ends before its work is done: by Ctrl-C, or by the SIGTERM of a batch system or container."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import typer

from blip_bootstrap.errors import INTERRUPTED, TERMINATED

AGAIN_S = 5.0
"""After so long what a signal raised is raised again, where the command goes on."""

ENOUGH_S = 60.0
"""A command that has not ended so long after a signal is left as it is: a kill loses nothing of a run."""


class Terminated(SystemExit):
    """SIGTERM came. What is open is closed on its way up, and the process ends with 143, as a shell has it."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


class _Heeded:
    """A signal that ends the command: raises `error` in the main thread, again and again until the command ends.

    What is raised while a library runs Python of its own (a finalizer, a callback from C) is printed there and lost,
    and a library that is interrupted at a bad moment may wait for itself for ever.
    """

    ending = False
    """Whether the command is ending: no signal changes anything any more."""

    goes_on = ""
    """What the last line says of the way to go on."""

    def __init__(self, error: type[BaseException], word: str, code: int) -> None:
        self.error, self.word, self.code = error, word, code
        self.came_at: float | None = None
        self.raised_at = 0.0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if _Heeded.ending or (self.came_at is not None and now - self.raised_at < AGAIN_S):
            return
        if self.came_at is None:
            self.came_at = now
            threading.Thread(target=self._insist, args=(number, now), name=self.word, daemon=True).start()
        self.raised_at = now
        raise self.error

    def _insist(self, number: int, since: float) -> None:
        while not _Heeded.ending:
            time.sleep(AGAIN_S + 0.1)
            if not _Heeded.ending and time.monotonic() - since > ENOUGH_S:
                os.write(2, f"{self.word}{_Heeded.goes_on}\n".encode())
                os._exit(self.code)
            if not _Heeded.ending:
                os.kill(os.getpid(), number)


_terminate = _Heeded(Terminated, "terminated", TERMINATED)

_interrupt = _Heeded(KeyboardInterrupt, "interrupted", INTERRUPTED)


def heed_sigterm() -> None:
    """Raise Terminated in the main thread on SIGTERM; others that come while the command ends change nothing.

    `timeout` and some batch systems send two. It is raised again every few seconds until the command ends, and after a
    minute the process leaves without asking. Does nothing in other threads, or where SIGTERM is to be ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    atexit.register(_leave)  # before what libraries register, and so called after it
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, _terminate)


def _leave() -> None:
    """End a process that a signal has ended, without what Python does at the end of one.

    Threads of Ray Data are still there after an interrupt, and the process died of them, with a SIGSEGV (Ray 2.60).
    """
    code = _terminate.code if sigterm_came() else _interrupt.code if _interrupt.came_at is not None else None
    if code is not None and _Heeded.ending:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


@contextmanager
def _sigint_heeded() -> Iterator[None]:
    """Ctrl-C in the body ends the command in the same way; elsewhere, as at the SQL prompt, it is Python's own."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
    return _terminate.came_at is not None


def skip_farewells() -> None:
    """Let this process end without what C++ does at the end of one: threads of a library that does not answer are still
    at work, and what they use would be destroyed below them (a SIGSEGV, at one of five ends beside a stuck Ray 2.60).

    The exit code stays, and so does what Python does. Does nothing where the C library has no `on_exit`, as on macOS.
    """
    libc = ctypes.CDLL(None)
    with suppress(AttributeError):
        libc.on_exit(libc._exit, None)  # called first, since it is registered last, and with the exit code


def note_end() -> None:
    """The command ends: no signal is to disturb what is done last."""
    _Heeded.ending = True


@contextmanager
def ended_early(goes_on: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM in the body are no failures: one line says that `goes_on`, and the process ends (130, 143)."""
    _Heeded.goes_on = f"; {goes_on}"
    try:
        with _sigint_heeded():
            yield
    except KeyboardInterrupt:
        note_end()
        typer.echo(f"interrupted; {goes_on}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (SystemExit, Exception):
        # Where Terminated is raised in a call of Ray's core, that raises a SystemExit of its own in its place (2.60);
        # and where it is raised in an import of pyarrow's C++, as of pandas, whatever the lack of that leads to.
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
