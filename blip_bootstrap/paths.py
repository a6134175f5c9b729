"""Paths and names as users give them: `~` expanded, URIs refused; and the user's own folders, which may lack."""

from __future__ import annotations

import getpass
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from blip_bootstrap.errors import InputError

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(s3|gs|file|https?|hdfs):/")
"""The second alternative: pathlib makes one slash of two."""

_STORE = re.compile(r"^(s3|gs):/+")

SCORE_NAME = r"^[a-z][a-z0-9_]{0,62}$"
"""What the score of a judge may be called: SQL reads such a name without quotes."""

Found = TypeVar("Found")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def local_path(value: object) -> Path:
    """A path of this machine, with `~` or `~NAME` at its start replaced by that home folder.

    No other character has a meaning: brackets, stars, colons, quotes and per cent signs are part of the name. Raises
    ValueError, whose message says what to write instead, for a URI, an empty name, an unknown home, and a value that is
    not text.
    """
    if not isinstance(value, str | Path):
        raise ValueError("a path is text; put it in quotes, as YAML reads a bare ~ as nothing and 2024 as a number")
    text = str(value)
    if not text.strip():
        raise ValueError("the path is empty")
    if _CONTROL.search(text) or not _is_utf8(text):
        raise ValueError(f"the path {text!a} holds characters that are not plain UTF-8 text; rename the folder")
    if _URI.match(text):
        raise ValueError(
            f"{text} is a URI, and this must be a path of this machine; mount an object store to use it here"
        )
    path = _expanded(text)
    # ./~name is a folder of that name, and must not look like a home to whoever reads it next.
    return path.absolute() if str(path).startswith("~") else path


def _expanded(text: str) -> Path:
    if not text.startswith("~"):
        return Path(text)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        told = f"no home folder is known that {text.partition('/')[0]} stands for"
        raise ValueError(f"{text}: {told}; write the folder in full, or ./{text} for one of that name") from error


def model_name(value: object) -> object:
    """The name of a model or tokenizer: a folder or file with `~` expanded; `package:NAME` and hub names unchanged.

    Raises ValueError for a URI, as `local_path` does. A value that is not text comes back as it is, for the type of the
    setting to refuse.
    """
    if not isinstance(value, str | Path) or not str(value):
        return value
    text = str(value)
    if _URI.match(text):
        raise ValueError(f"{text} is a URI; give a folder or file of this machine, or the hub's name as OWNER/NAME")
    if text.startswith(("~", "/", "./", "../")):
        path = local_path(text)
        # pathlib drops the dot, and ./owner/name would be asked for at the hub.
        return f"./{path}" if text.startswith("./") and not is_there(path) else str(path)
    return text


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; false, too, for a name longer than any can be."""
    try:
        return path.exists()
    except OSError:
        return False


def path_argument(text: str) -> Path:
    """A path from the command line, where shells leave the `~` of `--root=~/run`. Raises InputError as `local_path`."""
    return _told(local_path, text)


def run_root(value: object) -> Path:
    """The root of a run: a path as `local_path` reads it, or an s3:// or gs:// URI. Raises ValueError.

    pathlib makes one slash of a URI's two, which is told here from a URI that was typed so.
    """
    text = str(value)
    if isinstance(value, Path) and _STORE.match(text):
        return value
    if not isinstance(value, str) or not (scheme := re.match(r"(s3|gs|s3a|s3n|gcs|file)(?::|$)", text, re.IGNORECASE)):
        return local_path(value)
    if not re.fullmatch(r"(s3|gs)://[^/].*", text):
        known = {"s3": "s3", "s3a": "s3", "s3n": "s3", "gs": "gs", "gcs": "gs"}.get(scheme[1].lower())
        rest = text[len(scheme[0]) :].strip("/") or "BUCKET/FOLDER"
        if ":" in scheme[0]:
            raise ValueError(f"{text}: write {known}://{rest}" if known else f"{text}: write the path, /{rest}")
        return local_path(value)
    if _CONTROL.search(text) or not _is_utf8(text):
        raise ValueError(f"{text!a} holds characters that are not plain UTF-8 text; give another one")
    if bad := next((part for part in text.partition("?")[0].split("/")[3:] if part in (".", "..")), ""):
        raise ValueError(f"{text}: a store has no folder {bad}; write the key in full")
    return Path(text)


def root_text(root: Path) -> str:
    """A root as people write it: with both slashes of a URI."""
    return _STORE.sub(r"\1://", str(root))


def run_argument(text: str) -> Path:
    """A run, from the command line: a path, or an s3:// or gs:// URI. Raises InputError as `run_root`."""
    return _told(run_root, text)


def model_argument(text: str) -> str:
    """A model from the command line, as `model_name` reads it. Raises InputError."""
    return str(_told(model_name, text))


def _told(read: Callable[[object], Found], text: str) -> Found:
    try:
        return read(text)
    except ValueError as error:
        raise InputError(str(error)) from error


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def user_folder(variable: str, *below_home: str) -> Path:
    """The folder that an XDG variable names, else one below the home folder, else one below the temporary folder.

    A container may run as a user without a name, whose home nobody knows, or with a home that cannot be written.
    """
    given = os.environ.get(variable, "")
    if given.startswith("/"):
        return Path(given)
    home = _home()
    if home and os.access(home, os.W_OK):
        return Path(home, *below_home)
    return Path(tempfile.gettempdir(), f"blip-bootstrap-{os.getuid()}", *below_home)


def _home() -> Path | None:
    """The home folder, or None where neither HOME nor the system's list of users tells."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_absolute() else None


def spill_folder() -> Path | None:
    """Where DuckDB may put what does not fit in memory; None where no folder for temporary files can be written."""
    try:
        return Path(tempfile.gettempdir()) / f"blip-bootstrap-duckdb-{os.getuid()}"
    except OSError:
        return None


def name_the_user() -> None:
    """Set USER and HOME where the system knows neither, as in a container started with `--user 54321`.

    getpass.getuser raises where the user has no name, which torch and others do not expect, and libraries would make
    a folder called `~` where the home is unknown.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid-{os.getuid()}"
    if _home() is None:
        try:
            os.environ["HOME"] = str(Path(tempfile.gettempdir()) / f"blip-bootstrap-{os.getuid()}")
        except OSError:
            os.environ["HOME"] = "/"
