"""Everything that blip-bootstrap raises on purpose; each message says what, where, the value and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INTERRUPTED = 130
"""The exit code after Ctrl-C, as a shell has it."""

TERMINATED = 143
"""The exit code after SIGTERM, as a shell has it."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class BlipBootstrapError(Exception):
    """Any failure with a message fit to be shown as one line."""

    exit_code = 1


class InputError(BlipBootstrapError):
    """The user's input cannot be used: a missing file, a missing column, a file of another format."""

    exit_code = 2


class ConfigError(InputError):
    """The configuration is wrong; `mistakes` holds one line for each mistake."""

    def __init__(self, mistakes: list[str]) -> None:
        self.mistakes = mistakes
        super().__init__(mistakes)  # as it was given: pickle makes the exception anew of its arguments

    def __str__(self) -> str:
        return "\n".join(self.mistakes)


class CheckpointError(InputError):
    """A model folder or file is damaged, or is not the kind of model that the step needs."""


class RunFailed(BlipBootstrapError):  # noqa: N818 - it names an outcome, as in the exit codes
    """A step could not finish; what it had made so far stays in its staging folder, from where the next run goes on."""


class RunInUse(RunFailed):
    """Another process works on the run."""


class NothingLeft(RunFailed):
    """No picture or no pair is left to go on with; the pages that say why are written."""


class AccountingError(RunFailed):
    """The rows that went into a step are not those kept plus those dropped for each reason."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether `error`, or an error that caused it, says that a disk or quota is full, by its number or in words."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number in DISK_FULL or any(os.strerror(full) in str(error) for full in DISK_FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)


BY_DUCKDB = ("Error", "IOException", "InvalidInputException", "OutOfMemoryException")
"""DuckDB's errors, by name, about bytes that it cannot read and memory that it has not."""


def in_one_line(error: BaseException) -> str | None:
    """The line to show for an error of the machine: a full disk, a place that cannot be read or written.

    So is one of DuckDB's, about a file that it cannot read. None for any other error, which is a fault of this program
    and is shown with its traceback.
    """
    if is_disk_full(error):
        return "no space left on a disk; make room, and run the same command again"
    kind = type(error)
    if kind.__module__ in ("duckdb", "_duckdb") and kind.__name__ in BY_DUCKDB:  # by name: it is not loaded for this
        told = str(error).strip().partition("\n")[0]
        return f"{told}; a file may be damaged, which blip-bootstrap artifacts --verify names"
    if not isinstance(error, OSError):
        return None
    if error.errno in REFUSED:
        where = error.filename2 or error.filename
        told = f"{where}: {os.strerror(error.errno)}" if where else str(error)
        return f"{told}; give this user the right to it, or use another place"
    if error.errno == errno.ENAMETOOLONG:
        return f"{str(error.filename)[:80]}...: {os.strerror(error.errno)}"
    if "temporary directory" in str(error):
        return f"{error.strerror}; set TMPDIR to a folder that can be written"
    return None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A context for writing `path`: raises InputError, naming it, where the body could not write it."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise
        why = os.strerror(error.errno) if error.errno else str(error)
        raise InputError(f"{path}: cannot be written ({why}); write to a copy of the run, or elsewhere") from error
