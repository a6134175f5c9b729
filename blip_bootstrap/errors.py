"""Everything that blip-bootstrap raises on purpose; each message says what, where, the value and what to do."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, as a shell has it."""


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


class AccountingError(RunFailed):
    """Rows in are not rows kept plus rows per reason."""
