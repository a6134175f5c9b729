"""Runs on an object store (s3://, gs://): a working copy here has their small files; Parquet is read where it lies.

The copy lies under ~/.cache/blip-bootstrap (or $XDG_CACHE_HOME), one folder for each run. What is written in it is put
to the store at once (`stores/store.py`), so that the copy can be deleted whenever no command is at work on the run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from blip_bootstrap.errors import InputError, RunFailed
from blip_bootstrap.paths import path_argument, user_folder
from blip_bootstrap.schemas.keys import by_number
from blip_bootstrap.storage.notes import NOTES
from blip_bootstrap.storage.parquet import missing_part
from blip_bootstrap.storage.pointers import all_pointers, relink
from blip_bootstrap.storage.run_folder import ARTIFACTS, MANIFEST, named_files, read_json
from blip_bootstrap.stores.client import Store, is_same, told_uri, why
from blip_bootstrap.stores.store import BORROWED, LISTING, forget_stores, is_here_alone, known_stores, store_of

_URI = re.compile(r"(s3|gs):/+(.+)")

_URI_SIGNS = "%/?&=:@+,;!$'()*~-._"
"""Signs that a URI may hold; spaces, brackets and letters beyond ASCII, which users write, are percent-encoded."""

_SMALL = re.compile(
    r"(.*/)?(MANIFEST\.json|MANIFEST\.files|\.[^/]*\.MANIFEST\.json|metrics\.jsonl?|config\.yaml|shared\.json|round\.json)|(labels|languages)/[^/]*\.parquet"
)


SMALL_BYTES = 1 << 20

LOCK, AT_WORK = ".lock", ".at_work"


@dataclass(frozen=True)
class Remote:
    """A run on an object store: its URI, its Parquet files by their place in the run, and its local folder."""

    uri: str
    stamps: Mapping[str, tuple[int, int]]
    """Size and time (s) of each Parquet file, in the order of their places."""
    folder: Path

    @property
    def files(self) -> tuple[str, ...]:
        """Their places."""
        return tuple(self.stamps)

    @cached_property
    def start(self) -> str:
        """The beginning of the paths that DuckDB sees: the URI without its settings, `%20` read as a space."""
        return f"{self.uri.partition('://')[0]}://{self.store[1]}"

    @property
    def written(self) -> set[str]:
        """What this process has put there since."""
        store = store_of(self.folder)
        return store.written if store else set()

    @cached_property
    def store(self) -> tuple[Any, str]:
        """The file system of pyarrow, and the run's path in it."""
        store = store_of(self.folder) or Store(self.uri, self.folder)
        return store.reader, f"{store.bucket}/{store.prefix}"

    def parquet_files(self, folder: Path) -> list[str]:
        """The Parquet files that `parquet.parquet_files` would name, for a folder of the working copy.

        Those that are here, since this machine made them, are read here; the others by their URI.
        """
        top = self.folder.resolve()
        place = folder.resolve().relative_to(top).as_posix()  # a link of `relink` is no key there
        known, named = {*self.files, *self.written}, named_files(folder)
        names = (file.rpartition("/")[2] for file in self.files if file.rpartition("/")[0] == place)
        found = []
        for name in sorted(names, key=by_number) if named is None else named:
            file = (folder / name).resolve().relative_to(top).as_posix()  # a part may be borrowed from another artifact
            if not (is_here := (folder / name).is_file()) and file not in known:
                raise InputError(missing_part(f"{self.start}/{file}"))
            found.append(str(folder / name) if is_here else f"{self.start}/{file}")
        return found

    def schema(self, file: str) -> pa.Schema:
        """The Arrow schema of one of the files."""
        filesystem, _ = self.store
        return pq.read_schema(file.partition("://")[2], filesystem=filesystem)


def opened(root: Path | str, make: bool = False) -> Path:
    """The folder where a run can be read and worked on: `root`, or for an s3:// or gs:// URI its working copy.

    Every function with a parameter `root` takes this folder. The copy is compared with the store first, unless a
    command of this machine is at work in it. With `make` there may be no such run yet. Raises InputError where the
    store has no such run or refuses to show it.
    """
    found = _URI.fullmatch(str(root))  # a Path has lost one of the slashes
    if not found:
        return root if isinstance(root, Path) else path_argument(root)
    uri = f"{found[1]}://{quote(found[2], safe=_URI_SIGNS)}"
    if {".", ".."} & set(unquote(found[2].partition("?")[0]).split("/")):
        raise InputError(f"{told_uri(uri)}: a store has no folders . and ..; write the key in full")
    folder = local_folder(uri)
    try:
        with working_in(folder) as is_free:
            return _compared(uri, folder, make, refresh=is_free)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{told_uri(uri)}: a % stands before two hex digits in a URI; write %25 for the sign itself"
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{told_uri(uri)}: cannot be read ({why(error)})") from error
    except RunFailed as error:
        raise InputError(str(error)) from error


def working_copies() -> dict[str, str]:
    """The working copies that this process knows, folder and URI, for workers on machines that may lack them."""
    return {str(folder): store.uri for folder, store in known_stores().items() if (folder / LISTING).is_file()}


@contextmanager
def working_in(folder: Path, alone: bool = False, patience_s: float = 0.0) -> Iterator[bool]:
    """Keep a working copy as it is while one works in it, `alone` or beside others; whether one may.

    Waits for others `patience_s` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience_s
    with (folder / AT_WORK).open("w") as file:
        while not (is_free := _try_lock(file, alone)) and time.monotonic() < until:
            time.sleep(0.05)
        yield is_free


def _try_lock(file: TextIO, alone: bool) -> bool:
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def compare(store: Store) -> None:
    """Make a working copy what the store has, and nothing else; for who holds the run's lock and works in it alone."""
    there = store.listing()
    for file in _files(store.folder):
        name = file.relative_to(store.folder).as_posix()
        if file.is_symlink() or name not in there or not is_same(file, there[name]):
            file.unlink()
    for folder in sorted((one for one in store.folder.rglob("*") if one.is_dir()), reverse=True):
        if not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()
    _compared(store.uri, store.folder, make=True, refresh=True)


def _files(folder: Path) -> list[Path]:
    """The files and links of a working copy that its store has, too, or should have."""
    files = (one for one in folder.rglob("*") if one.is_symlink() or one.is_file())
    own = (one for one in files if not one.name.startswith((AT_WORK, LISTING)))
    return [one for one in own if not is_here_alone(one.relative_to(folder).as_posix())]


def remote_of(root: Path) -> Remote | None:
    """The run on a store of which a folder is the local copy, as `opened` noted; None where it is a run itself."""
    path = root / LISTING
    if not path.is_file():
        return None
    listing = json.loads(path.read_text(encoding="utf-8"))
    tables = sorted((file, stamp) for file, stamp in listing["files"].items() if _is_table(file) and not _hidden(file))
    return Remote(listing["uri"], {file: (stamp[0], stamp[1]) for file, stamp in tables}, root)


def local_folder(uri: str) -> Path:
    """Where the local copy of a run's small files lies."""
    name = uri.partition("?")[0].rstrip("/")
    return (
        user_folder("XDG_CACHE_HOME", ".cache")
        / "blip-bootstrap"
        / hashlib.sha256(name.encode()).hexdigest()[:16]
        / name.rpartition("/")[2]
    )


def _compared(uri: str, folder: Path, make: bool, refresh: bool) -> Path:
    """List the run; copy its small files that are new or changed, and drop those that are gone."""
    store = store_of(folder)
    if store is None or store.uri != uri:
        store = Store(uri, folder)
    if "?" in store.prefix:  # fsspec cuts the names of files there
        raise InputError(f"{store.told}: a key with a question mark cannot be read; copy the run to another one")
    stamps = store.listing(missing_ok=make)
    if refresh:
        _refresh(store, folder, stamps)
    told = json.dumps({"uri": uri, "files": {name: list(stamp) for name, stamp in stamps.items()}})
    staged = folder / f"{LISTING}.{uuid.uuid4().hex}.tmp"
    staged.write_text(told, encoding="utf-8")
    staged.replace(folder / LISTING)
    forget_stores()
    return folder


def _refresh(store: Store, folder: Path, stamps: Mapping[str, tuple[int, int]]) -> None:
    for _, name, _ in list(all_pointers(folder)):
        if (folder / name).is_symlink():  # made below where the store, as it is now, lacks it
            (folder / name).unlink()
    was = json.loads(_text(folder / LISTING) or "{}").get("files", {})
    for name in was.keys() - stamps.keys():
        (folder / name).unlink(missing_ok=True)
    for name, stamp in stamps.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).is_symlink() and not is_same(folder / name, stamp):
            (folder / name).unlink(missing_ok=True)
    small = {name: stamp for name, stamp in stamps.items() if _is_small(name, stamp[0])}
    store.fetch_all(small, gone_ok=True)  # a run at work deletes some since they were listed
    _borrow(folder, stamps)
    relink(folder)


def _borrow(folder: Path, stamps: Mapping[str, tuple[int, int]]) -> None:
    """Make the links to parts that artifacts have in common, by their MANIFESTs."""
    for manifest in (folder / ARTIFACTS).glob(f"*/*/{MANIFEST}"):
        for entry in (read_json(manifest) or {}).get("files", []):
            place = manifest.parent / str(entry["name"])
            is_own = place.relative_to(folder).as_posix() in stamps  # made anew, after it was damaged
            if (home := entry.get("at")) and not place.is_symlink() and not is_own:
                place.unlink(missing_ok=True)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(os.path.relpath((folder / home).resolve(), place.parent.resolve()))
    for note in (folder / ARTIFACTS).glob(f"*/*/{BORROWED}/*.txt"):
        place, home = note.parents[1] / note.stem, note.read_text(encoding="utf-8")
        if not place.exists() and not place.is_symlink() and place.relative_to(folder).as_posix() not in stamps:
            place.symlink_to(os.path.relpath((folder / home).resolve(), place.parent.resolve()))


def _is_small(name: str, size: int) -> bool:
    """Whether a file is copied here at once: all that is no table, model or checkpoint, and no note of a part."""
    if f"/{NOTES}/" in name:
        return False
    return bool(_SMALL.fullmatch(name)) or (not name.endswith(".parquet") and size <= SMALL_BYTES and name != LOCK)


def _hidden(name: str) -> bool:
    """Whether a name is of something staged; the hidden MANIFEST beside a file is not."""
    *folders, last = name.split("/")
    return any(one.startswith(".") for one in folders) or (last[0] == "." and not last.endswith("MANIFEST.json"))


def _is_table(name: str) -> bool:
    return name.endswith(".parquet") and not _SMALL.fullmatch(name)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
