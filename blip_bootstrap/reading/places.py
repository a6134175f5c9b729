"""Where the files of an input lie: one file, all files of a folder or of a pattern, of this machine or of a store."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath

from blip_bootstrap.errors import InputError, RunFailed
from blip_bootstrap.paths import root_text, user_folder
from blip_bootstrap.storage.manifest import digest_of_path
from blip_bootstrap.stores.client import Store

_STORE = re.compile(r"(s3|gs):/+")

_BRACES = re.compile(r"\{(\d+\.\.\d+|[^{}]*,[^{}]*)\}")

_DIGITS = re.compile(r"(\d+)")

Wanted = Callable[[str], bool]
"""Whether a file of a folder is one of the input, by its name."""


def is_remote(path: Path) -> bool:
    """Whether a path is an s3:// or gs:// URI, of which pathlib has made one slash of two."""
    return _STORE.match(str(path)) is not None


def files_of(path: Path, wanted: Wanted) -> list[Path]:
    """The files of an input in the order of their names, numbers in them by size: `2.tsv` before `10.tsv`.

    `path` is a file, a folder, whose own files with a name that is `wanted` are meant, or a pattern with `*`, `?`,
    `[...]`, `{00..12}` or `{a,b}` where no file has that name (`**` for folders at any depth). Of a store, copies of
    this machine are given, fetched again where they are others there now. Raises InputError where a folder or pattern
    has no file.
    """
    if is_remote(path):
        return [copied(one) for one in remote_files(path, wanted)]
    if path.is_file() or not (path.is_dir() or _is_pattern(str(path))):
        return [path]  # whoever opens it says why it cannot be read
    found = [one for one in _local(path) if one.is_file() and not one.name.startswith(".") and wanted(one.name)]
    if not found:
        raise InputError(_nothing(path, path.is_dir()))
    return sorted(found, key=lambda one: in_order(str(one)))


def in_order(name: str) -> list[tuple[int, int | str]]:
    """A key to sort names by, in which numbers count as numbers."""
    return [(0, int(one)) if one.isdigit() and one.isascii() else (1, one) for one in _DIGITS.split(name)]


def _local(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from path.iterdir()
        return
    folder = fixed_folder(path)
    if folder != path:
        for pattern in without_braces(str(path.relative_to(folder))):
            yield from folder.glob(pattern)


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[") or _BRACES.search(name) is not None


def is_pattern(path: Path) -> bool:
    """Whether a path stands for many files, and is not the name of one."""
    if is_remote(path):
        return "*" in str(path) or "[" in str(path) or _BRACES.search(str(path)) is not None
    return _is_pattern(str(path)) and not path.exists()


def fixed_folder(path: Path) -> Path:
    """The folder before the first part of a path that is a pattern."""
    fixed = next((at for at, part in enumerate(path.parts) if _is_pattern(part)), len(path.parts))
    return Path(*path.parts[:fixed])


def without_braces(text: str) -> list[str]:
    """The texts that braces stand for, as shells and webdataset have them: `{00..12}.tar`, `{a,b}.tar`."""
    found = _BRACES.search(text)
    if not found:
        return [text]
    inside = found[1]
    if ".." in inside:
        first, _, last = inside.partition("..")
        middle = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        middle = inside.split(",")
    return [one for part in middle for one in without_braces(f"{text[: found.start()]}{part}{text[found.end() :]}")]


def _nothing(path: Path, is_folder: bool) -> str:
    if is_folder:
        return f"{root_text(path)}: no file of this folder is one that can be read here; name the file"
    what = "no file has a name like this" if _is_pattern(str(path)) else "no such file"
    return f"{root_text(path)}: {what}"


def remote_files(path: Path, wanted: Wanted) -> list[Path]:
    """The URIs of the files of an input on a store, as `files_of` finds them. Raises InputError where there is none."""
    place, question, settings = root_text(path).partition("?")
    parts = place.split("/")
    signs = ("*", "[", "{")
    fixed = next((n for n, part in enumerate(parts) if n > 2 and any(one in part for one in signs)), len(parts) - 1)
    start, pattern = "/".join(parts[:fixed]), "/".join(parts[fixed:])
    try:
        store = _store(f"{start}{question}{settings}")
        with store.asking("read"):
            names = sorted(store.listing(), key=in_order)
    except RunFailed as error:
        raise InputError(str(error).partition("; the same command")[0]) from error
    below = [name for name in names if wanted(name) and PurePosixPath(name).parent == PurePosixPath(pattern)]
    found = [name for name in names if name == pattern] or below or [n for n in names if _matches(n, pattern)]
    if not found:
        raise InputError(_nothing(path, is_folder=False))
    return [Path(f"{start}/{name}{question}{settings}") for name in found]


def _matches(name: str, pattern: str) -> bool:
    if _BRACES.search(pattern):
        return any(_matches(name, one) for one in without_braces(pattern))
    if "**" in pattern:
        return fnmatchcase(name, pattern.replace("**/", "*"))
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


@lru_cache(maxsize=64)
def _store(uri: str) -> Store:
    digest = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return Store(uri, user_folder("XDG_CACHE_HOME", ".cache") / "blip-bootstrap" / "inputs" / digest)


def store_and_name(path: Path) -> tuple[Store, str]:
    """The store that a URI's folder is, and the name of its file there."""
    place, question, settings = root_text(path).partition("?")
    start, _, name = place.rpartition("/")
    return _store(f"{start}{question}{settings}"), name


def copied(path: Path) -> Path:
    """A copy of this machine of a store's file, fetched where there is none or the store has another one.

    It lies below ~/.cache/blip-bootstrap/inputs (or $XDG_CACHE_HOME). Raises InputError where it cannot be read.
    """
    store, name = store_and_name(path)
    try:
        with store.asking("read", name):
            stamp = store.stat(name)
        if stamp is None:
            raise InputError(f"{root_text(path).partition('?')[0]}: no such file")
        store.fetch_all({name: stamp})
    except RunFailed as error:
        raise InputError(str(error).partition("; the same command")[0]) from error
    return store.folder / name


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and time (ns; of a store, s) of a file. Raises InputError where there is none."""
    if not is_remote(path):
        stat = path.stat()
        return stat.st_size, stat.st_mtime_ns
    store, name = store_and_name(path)
    found = store.stat(name)
    if found is None:
        raise InputError(f"{root_text(path).partition('?')[0]}: no such file")
    return found


def digest_of_files(files: Sequence[Path]) -> str:
    """The sha256 of one file's bytes; of several, of their names and bytes."""
    if len(files) == 1:
        return digest_of_path(files[0])
    whole = hashlib.sha256()
    for one in files:
        whole.update(f"{one.name} {digest_of_path(one)}\n".encode())
    return whole.hexdigest()


def digest_of_stamps(path: Path) -> str:
    """A digest of the names, sizes and times of what may be too much to be read for it: a file, a folder, a pattern."""
    whole = hashlib.sha256()
    for name, stamp in sorted(_stamps(path)):
        whole.update(f"{name} {stamp}\n".encode())
    return whole.hexdigest()


def _stamps(path: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    if is_remote(path):
        place, question, settings = str(path).partition("?")
        start = re.split(r"[*\[{]", place)[0].rpartition("/")[0] if re.search(r"[*\[{]", place) else place
        store = _store(f"{root_text(Path(start))}{question}{settings}")
        with store.asking("read"):
            found = store.listing()
            yield from found.items()
        if not found:
            name = place.rpartition("/")[2]
            yield name, stamp_of(path)
        return
    for one in [path] if path.exists() else files_of(path, lambda name: True):
        for file in [one] if one.is_file() else (file for file in one.rglob("*") if file.is_file()):
            yield file.relative_to(path.parent if path.exists() else path.anchor or ".").as_posix(), stamp_of(file)
