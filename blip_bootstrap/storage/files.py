"""Writing a file whole or not at all; everything that a run leaves is written by these functions."""

from __future__ import annotations

import errno
import os
import re
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blip_bootstrap.errors import writing
from blip_bootstrap.stores.store import publish

STAGED = re.compile(r"\.(.+?)(?:\.MANIFEST\.json)?\.[0-9a-f]{32}\.tmp")
"""The name of a file that is being written, and in it the name that it is to get, or that the MANIFEST is of."""


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """A hidden file beside `path` for the body to write; it becomes `path` in one rename when the body ends.

    Where the body raises, `path` is as it was and the hidden file is gone. In the working copy of a run on a store the
    file is put there, too; RunFailed where that fails, and `path` is as it was.
    """
    # Never the same name twice, on hosts that share the folder neither: Ray does a block again where a node is lost to
    # it, and the lost one may still be writing.
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield staged
        if staged.exists():
            sync(staged)  # before the rename: after a power cut a file is whole under its name, or not there
            publish(path, staged)  # before it, too: what is here under its name is on the run's store, if it has one
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def sweep(folder: Path, shared: Collection[str] = ()) -> None:
    """Delete what processes that were killed were writing in `folder` by `staged_file`, and had not finished.

    Hold the run's lock. Of files called as in `shared`, which are written without it, only what is an hour old.
    """
    for path in folder.glob(".*.tmp"):
        name = STAGED.fullmatch(path.name)
        if name and (name[1].strip(".") not in shared or time.time() - path.lstat().st_mtime > 3600):
            path.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) to `path`, whole or not at all."""
    with staged_file(path) as staged:
        staged.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def write_durable(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, whole or not at all, so that a power cut after it takes nothing back."""
    write_whole(path, content)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on the disk, where the file system can tell."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # as of some network file systems for a folder
            raise
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, so that a power cut after it takes no name of them back."""
    made = [one for one in (path, *path.parents) if not one.is_dir()]
    path.mkdir(parents=True, exist_ok=True)
    for above in dict.fromkeys((path.parent, *(one.parent for one in made))):
        with suppress(PermissionError):  # of a folder that may be passed through and not read
            sync(above)


def check_writable(path: Path) -> None:
    """Raise InputError where a file cannot be written at `path`, before the work that it is to hold."""
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.touch()
        staged.unlink()
