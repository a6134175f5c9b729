"""Carries exceptions from workers to the command, and turns errors of Ray into one line."""

from __future__ import annotations

import pickle
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from blip_bootstrap.errors import BlipBootstrapError, RunFailed


@dataclass(frozen=True)
class Raised:
    """An exception of a worker, as data: pickled, or only its class name and message where pickle fails.

    `is_ours` says that it was raised on purpose: what is tried again raises it again.
    """

    pickled: bytes | None
    name: str
    message: str
    is_ours: bool = False


def packed(error: Exception) -> Raised:
    """Pack the exception that a worker is handling, with its traceback as a note."""
    error.add_note(f"In the worker:\n{traceback.format_exc()}")
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)  # some can be pickled, not unpickled: their constructor wants other arguments
    except Exception:  # noqa: BLE001 - a foreign exception's own pickling may raise anything
        return Raised(None, type(error).__name__, first_line(error))
    return Raised(pickled, type(error).__name__, first_line(error), isinstance(error, BlipBootstrapError))


def unpacked(step: str, raised: Raised) -> BlipBootstrapError:
    """The exception for `step` to raise: a BlipBootstrapError unchanged, any other as the cause of a RunFailed."""
    error = _unpickled(raised)
    if isinstance(error, BlipBootstrapError):
        return error
    return _failed(step, raised.name, raised.message, error)


def _unpickled(raised: Raised) -> BaseException | None:
    try:
        error = pickle.loads(raised.pickled) if raised.pickled else None
    except Exception:  # noqa: BLE001 - its class may be known on the worker's machine alone
        return None
    return error if isinstance(error, BaseException) else None


def _failed(step: str, name: str, message: str, cause: BaseException | None) -> RunFailed:
    failed = RunFailed(f"{step}: {name}: {message}; run again to go on")
    failed.__cause__ = cause
    return failed


@contextmanager
def errors_in_one_line(step: str) -> Iterator[None]:
    """Turn an error of Ray in the body into RunFailed, or into the BlipBootstrapError that a task raised."""
    try:
        yield
    except Exception as error:
        ray = sys.modules.get("ray")  # without Ray there are no errors of Ray
        if not ray or not isinstance(error, ray.exceptions.RayError):
            raise
        cause = getattr(error, "cause", None) or error  # what the task raised, where one did
        if isinstance(cause, BlipBootstrapError):
            raise cause from None
        raise _failed(step, type(cause).__name__, first_line(cause), error) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not blank; its class name where there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
