"""An error that a worker raised, as one of ours and in one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from blip_bootstrap import errors
from blip_bootstrap.errors import BlipBootstrapError, RunFailed


@contextmanager
def errors_in_one_line(step: str) -> Iterator[None]:
    """Errors of Ray and of the code it ran leave as one line: our own as they are, others as RunFailed."""
    try:
        yield
    except Exception as error:
        ray = sys.modules.get("ray")
        if ray and isinstance(error, ray.exceptions.RayError):
            raise _in_one_line(step, error) from error
        raise


def _in_one_line(step: str, error: BaseException) -> BlipBootstrapError:
    """What was raised first. Ray Data hands on the worker's traceback as text alone, without the exception."""
    raised = _RAISED.search(str(error))
    if raised is None:
        return RunFailed(f"{step}: {type(error).__name__}: {first_line(error)}; run again to go on")
    kind = getattr(errors, raised["name"], None)
    if isinstance(kind, type) and issubclass(kind, BlipBootstrapError):
        return kind(raised["message"])
    return RunFailed(f"{step}: {raised['name']}: {raised['message']}; run again to go on")


_RAISED = re.compile(r"^(?:[A-Za-z_]\w*\.)*(?P<name>[A-Za-z_]\w*): (?P<message>.+)$", re.MULTILINE)
"""The line of a traceback that names the exception; the lines of its frames are indented."""


def first_line(error: BaseException) -> str:
    """An error's words, their first line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
