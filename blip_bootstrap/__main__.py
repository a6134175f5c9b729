"""The console script, which `python -m blip_bootstrap` is too."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from blip_bootstrap.ending import heed_sigterm, note_end, speak_plainly
from blip_bootstrap.errors import INTERRUPTED, BlipBootstrapError, InputError, in_one_line
from blip_bootstrap.paths import name_the_user


def main() -> None:
    """The console script: every failure is one line for each mistake, and an exit code."""
    # Spinning OpenMP threads make small models many times slower on a shared machine; set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    code: str | int | None = 0
    try:
        _prepare()
        from blip_bootstrap.cli.app import app  # here, so that what its import raises is told

        app()
    except SystemExit as end:  # typer's way to return, and SIGTERM's
        code = end.code
    except KeyboardInterrupt:  # before a command has begun
        code = INTERRUPTED
    except BlipBootstrapError as error:
        sys.stderr.write("".join(f"error: {line}\n" for line in _shown(str(error)).splitlines()))
        code = error.exit_code
    except BrokenPipeError:
        _drop_output()
    except Exception as error:
        told = in_one_line(error)
        if told is None:
            raise
        sys.stderr.write(f"error: {told}\n")
        code = 1
    _end(code)


def _shown(text: str) -> str:
    """A message in which a run's URI stands for its working copy, where there can be one."""
    store = sys.modules.get("blip_bootstrap.stores.store")  # not to load pyarrow for the message of a wrong option
    return str(store.shown(text)) if store else text


def _prepare() -> None:
    """What must hold before anything is imported that relies on it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started it
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - open as long as the process is
    speak_plainly()
    heed_sigterm()
    name_the_user()
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise InputError("the working directory is gone; change to another one") from error


def _end(code: str | int | None) -> NoReturn:
    """Leave with an exit code; a text is printed on standard error and makes it 1. A SIGTERM changes nothing now."""
    note_end()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
    sys.exit(code)


def _drop_output() -> None:
    """Let what nobody reads any more go nowhere: Python would complain of it as the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
