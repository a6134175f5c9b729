"""Everything that blip-bootstrap raises on purpose; each message says what, where, the value and what to do."""

import errno
import os

INTERRUPTED = 130
"""The exit code after Ctrl-C, as a shell has it."""

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
        super().__init__("\n".join(mistakes))


class CheckpointError(InputError):
    """A model folder or file is damaged, or is not the kind of model that the step needs."""


class RunFailed(BlipBootstrapError):  # noqa: N818 - it names an outcome, as in the exit codes
    """A step could not finish; what it had made so far stays in the staging place."""


class NothingLeft(RunFailed):
    """No picture, or no pair, is left to go on with; the pages that tell why were written."""


class AccountingError(RunFailed):
    """Rows in are not rows kept plus rows per reason."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether `error`, or one that it came of, says that a disk or quota is full: Python's, or a library's in words."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number in DISK_FULL or any(os.strerror(full) in str(error) for full in DISK_FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
