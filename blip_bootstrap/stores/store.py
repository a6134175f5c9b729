"""Object stores (s3://, gs://) behind a working copy: what is written in the copy is put to the store at once.

A run on a store is worked on in a folder of this machine, its working copy, which a file in it (`LISTING`) says. A file
counts once it is on the store. No file there is ever renamed: a name gets its bytes in one request.

Credentials and endpoint are the environment's (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...), or in the URI as pyarrow
takes them (`?endpoint_override=...&region=...`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from blip_bootstrap.stores.client import THREADS, Store, is_same

LISTING = ".remote.json"
"""In a working copy: the URI of its run, and what was there when it was last compared."""

BORROWED = ".at"
"""In what is half-made on a store: for each part that is borrowed where it lies, as its MANIFEST will say."""

HERE_ALONE = (".growth", ".lists", ".lists.tmp", ".bring")
"""Folders in a run that are not put to its store: each is made again in seconds where it lacks. So is the demo's world,
`WORLD`, at its top."""

WORLD = "world"

_known: dict[Path, Store] = {}


@lru_cache(maxsize=8192)
def _store_at(folder: str) -> Store | None:
    """The store whose working copy `folder` is or lies in."""
    path = Path(folder)
    if not (path / LISTING).is_file():
        return None if path.parent == path else _store_at(str(path.parent))
    uri = str(json.loads((path / LISTING).read_text(encoding="utf-8"))["uri"])
    if (known := _known.get(path.resolve())) is None or known.uri != uri:
        known = _known[path.resolve()] = Store(uri, path)
    return known


def store_of(folder: Path) -> Store | None:
    """The store of the run in whose working copy a folder lies; None where it lies in none."""
    return _store_at(str(folder.absolute()))


forget_stores = _store_at.cache_clear
"""Look for working copies anew, as after one is made."""


def known_stores() -> dict[Path, Store]:
    """The stores that this process has worked with, by working copy."""
    return dict(_known)


def shown(text: str) -> str:
    """A text for people, in which a run's URI stands for its working copy."""
    for folder, store in list(_known.items()):
        text = text.replace(str(folder), store.told)
    return text


def _place(path: Path, through_links: bool) -> tuple[Store, str] | None:
    """The store of a path, and its name there; None for a path of this machine alone."""
    if (store := _store_at(str(path.absolute().parent))) is None:
        return None
    real = path.resolve() if through_links else path.parent.resolve() / path.name
    if not real.is_relative_to(store.folder):
        return None  # a link out of the copy
    name = real.relative_to(store.folder).as_posix()
    return None if is_here_alone(name) else (store, name)


def is_here_alone(name: str) -> bool:
    """Whether what has this name in a run is not put to its store."""
    parts = name.split("/")
    return parts[0] == WORLD or bool(set(parts) & set(HERE_ALONE))


def publish(path: Path, source: Path | None = None) -> None:
    """Put a file of a working copy (or `source` under its name) to the store; does nothing for other paths."""
    if found := _place(path, through_links=False):
        store, name = found
        store.put(name, source or path)


def publish_rest(folder: Path, names: list[str]) -> None:
    """Put those of an artifact's files to the store that are not there as they are here, as libraries leave them."""
    if not (found := _place(folder, through_links=True)):
        return
    store, place = found
    with store.asking("read", place):
        there = store.listing(place)
    store.written |= there.keys()
    for name in (f"{place}/{one}" for one in names if not (folder / one).is_symlink()):
        if (store.folder / name).is_file() and not (name in there and is_same(store.folder / name, there[name])):
            store.put(name, store.folder / name)


def gone(path: Path) -> None:
    """Delete a file, a link or a folder, here and on the store; what is not there does not matter."""
    found = None if path.is_symlink() else _place(path, through_links=False)
    if found:
        store, name = found
        with store.asking("read", name):
            below = sorted(store.listing(name)) if not path.is_file() else []
        store.delete(below or [name])
    if path.is_symlink() and store_of(path.parent):
        gone(borrowed_note(path))
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def borrowed_note(link: Path) -> Path:
    """Where a half-made artifact on a store says that it borrows a part, since links are not there."""
    return link.parent / BORROWED / f"{link.name}.txt"


def size_of(path: Path) -> int | None:
    """Bytes of a file, here or on the store; None where there is none."""
    if path.is_file():
        return path.stat().st_size
    found = _place(path, through_links=True)
    if not found or path.is_dir():
        return None
    store, name = found
    with store.asking("read", name):
        stamp = store.stat(name)
    return stamp[0] if stamp else None


def is_there(path: Path) -> bool:
    """Whether there is such a file, here or on the store, or such a folder here."""
    return path.exists() or size_of(path) is not None


def sizes_below(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder, here and on the store, by its name under the folder; links left out."""
    here = (one for one in folder.rglob("*") if one.is_file() and not one.is_symlink())
    return {one.relative_to(folder).as_posix(): one.stat().st_size for one in here} | sizes_there(folder)


def sizes_there(folder: Path) -> dict[str, int]:
    """The same of the files on the store alone; empty for a folder of this machine."""
    if (found := _place(folder, through_links=True)) is None:
        return {}
    store, place = found
    with store.asking("read", place):
        return {name.removeprefix(f"{place}/"): stamp[0] for name, stamp in store.listing(place).items()}


def fetched(path: Path) -> Path:
    """`path`, once the file, or the folder with all that is below it, is here; other paths as they are."""
    if (found := _place(path, through_links=True)) is None:
        return path
    store, name = found
    if path.is_file():
        return path
    with store.asking("read", name):
        stamp = None if path.is_dir() else store.stat(name)
        stamps = {name: stamp} if stamp else store.listing(name)
    store.fetch_all(stamps)
    if not stamp:  # parts that are borrowed from other artifacts
        all_fetched([one for one in path.rglob("*") if one.is_symlink() and not one.exists()])
    return path


def all_fetched(files: Sequence[Path]) -> None:
    """Bring those files here that are on the store alone."""
    lacking = [file for file in files if not file.is_file()]
    if lacking and any(_place(file, through_links=True) for file in lacking):
        with ThreadPoolExecutor(THREADS, thread_name_prefix="fetch") as pool:
            for _ in pool.map(fetched, lacking):
                pass


def open_input(path: Path) -> Any:
    """A file of the store to be read by ranges; None where the path is of this machine alone."""
    if (found := _place(path, through_links=True)) is None:
        return None
    store, name = found
    return store.reader.open_input_file(f"{store.bucket}/{store.key(name)}")


def digest_there(path: Path) -> str | None:
    """The sha256 of a file's bytes on the store, empty where it is not there; None for a path of this machine alone."""
    if (found := _place(path, through_links=True)) is None:
        return None
    store, name = found
    with store.asking("read", name):
        if store.stat(name) is None:
            return ""
        whole = hashlib.sha256()
        with store.reader.open_input_stream(f"{store.bucket}/{store.key(name)}") as source:
            while block := source.read(1 << 22):
                whole.update(block)
    return whole.hexdigest()
