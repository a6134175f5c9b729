"""Every operation on the names and bytes under a folder, seen before and after it: where Python or a library writes.

Nothing is listed by hand of what a run writes: the functions of `os`, `open` and the writers of libraries are replaced
in this process, and an operation counts where its path lies under the folder. Meant for a child that ends afterwards.
"""

from __future__ import annotations

import builtins
import io
import os
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

When = Literal["before", "half", "after"]

NAMES = ("mkdir", "rename", "replace", "symlink", "link", "unlink", "remove", "rmdir", "truncate")
"""Functions of `os` that change names or bytes. `rename` and `replace` count as one."""

WRITERS = (("pyarrow.parquet", "write_table", 1), ("safetensors.torch", "save_file", 1))
"""Functions of libraries that write a file without Python's `open`: module, name, and which argument is the path."""

PUTS = (("obstore", "put", 1),)
"""Functions that put an object into a store: as WRITERS, but the argument is a key, and there is no half of it."""


@dataclass(frozen=True)
class Operation:
    """One operation: what it does, the path (under the folder watched), where it moves it, and the bytes it wrote.

    `create` opens a file that is new or emptied; `write` adds bytes at `at`; `fsync` has the bytes as they are by then.
    """

    number: int
    kind: str
    path: str
    to: str = ""
    data: bytes = b""
    at: int = 0

    def __str__(self) -> str:
        return f"{self.number} {self.kind} {self.path}{f' -> {self.to}' if self.to else ''}"


Act = Callable[[Operation, When], bool]
"""Told of each operation before and after it; before a write it may ask for half of it, which it is told of."""


class Watch:
    """Tells `act` of every operation under `folder`, one at a time, from now on until the process ends."""

    def __init__(self, folder: Path, act: Act) -> None:
        self.folder, self.act = folder.resolve(), act
        self.done = 0
        self._turn = threading.RLock()
        for name in NAMES:
            setattr(os, name, self._on_names("replace" if name == "rename" else name, getattr(os, name)))
        self._fsync, self._os_open, self._open = os.fsync, os.open, open
        for name, value in {"fsync": self.fsync, "open": self.os_open}.items():
            setattr(os, name, value)
        for module in (builtins, io):
            module.open = self.open  # type: ignore[attr-defined]
        for writers, make in ((WRITERS, self._on_writer), (PUTS, self._on_put)):
            for place, name, at in writers:
                if place in sys.modules and hasattr(sys.modules[place], name):
                    real = getattr(sys.modules[place], name)
                    replace_everywhere(real, make(real, at))

    def under(self, path: Any, folder: int | None = None) -> str | None:
        """A path as the operations name it; None where it does not lie under the folder."""
        named = _opened(path) if isinstance(path, int) else Path(os.fsdecode(path))
        named = (_opened(folder) if folder is not None else Path.cwd()) / named
        whole = named.parent.resolve() / named.name
        return whole.relative_to(self.folder).as_posix() if self.folder in whole.parents else None

    def doing(self, kind: str, path: str, real: Callable[[], Any], **known: Any) -> Any:
        """Do one operation, and tell of it."""
        with self._turn:
            operation = Operation(self.done, kind, path, **known)
            self.done += 1
            self.act(operation, "before")
            result = real()
            self.act(operation, "after")
            return result

    def _on_names(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        kind = "unlink" if kind == "remove" else kind

        def operation(first: Any, *rest: Any, **settings: Any) -> Any:
            from_fd = settings.get("src_dir_fd", settings.get("dir_fd"))
            if kind == "symlink":
                path, to = self.under(rest[0], settings.get("dir_fd")), os.fsdecode(first)
            else:
                path = self.under(first, from_fd)
                to = (self.under(rest[0], settings.get("dst_dir_fd")) or "") if kind in ("replace", "link") else ""
            if path is None:
                return real(first, *rest, **settings)
            return self.doing(kind, path, lambda: real(first, *rest, **settings), to=to)

        return operation

    def fsync(self, descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        path = self.under(number)
        if path is None and _opened(number) == self.folder:
            path = "."
        if path is None:
            self._fsync(descriptor)
            return
        is_folder = stat.S_ISDIR(os.fstat(number).st_mode)
        data = b"" if is_folder else self._read(number)
        # Without the call itself: nobody cuts the power of this machine, and 300 of them are a second.
        self.doing("fsync folder" if is_folder else "fsync", path, lambda: None, data=data)

    def _read(self, descriptor: int) -> bytes:
        with self._open(f"/proc/self/fd/{descriptor}", "rb") as file:
            return file.read()

    def os_open(self, path: Any, flags: int, *rest: Any, **settings: Any) -> int:
        named = self.under(path, settings.get("dir_fd")) if flags & (os.O_CREAT | os.O_TRUNC) else None
        if named is None:
            return self._os_open(path, flags, *rest, **settings)
        found: int = self.doing("create", named, lambda: self._os_open(path, flags, *rest, **settings))
        return found

    def open(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        *rest: Any,
    ) -> Any:
        """As the builtin; files under the folder that are written have a raw file below them that tells of writes."""
        named = self.under(file) if set(mode) & set("wax+") and not isinstance(file, int) else None
        if named is None:
            return self._open(file, mode, buffering, encoding, errors, newline, *rest)
        fresh = "a" not in mode or not Path(file).exists()
        raw_mode = mode.replace("b", "").replace("t", "")
        make = lambda: _WatchedFile(self, named, os.fspath(file), raw_mode)  # noqa: E731
        raw = self.doing("create", named, make) if fresh and "r" not in mode else make()
        if buffering == 0:
            return raw
        buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

    def written(self, path: str, data: Any, at: int, real: Callable[[Any], int]) -> int:
        """Write bytes at a place of a file, or half of them and no more."""
        with self._turn:
            operation = Operation(self.done, "write", path, data=bytes(data), at=at)
            self.done += 1
            if self.act(operation, "before"):
                real(operation.data[: len(operation.data) // 2])
                self.act(operation, "half")
            count = real(data)
            self.act(operation, "after")
            return count

    def _on_writer(self, real: Callable[..., Any], at: int) -> Callable[..., Any]:
        def writer(*arguments: Any, **settings: Any) -> Any:
            path = arguments[at]
            named = self.under(path)
            if named is None:
                return real(*arguments, **settings)
            self.doing("create", named, lambda: self._open(path, "wb").close())
            with self._turn:
                number, self.done = self.done, self.done + 1
                wants_half = self.act(Operation(number, "write", named), "before")
                result = real(*arguments, **settings)
                whole = self._open(path, "rb").read()
                operation = Operation(number, "write", named, data=whole)
                if wants_half:
                    with self._open(path, "r+b") as file:
                        file.truncate(len(whole) // 2)
                    self.act(operation, "half")
                self.act(operation, "after")
                return result

        return writer

    def _on_put(self, real: Callable[..., Any], at: int) -> Callable[..., Any]:
        def put(*arguments: Any, **settings: Any) -> Any:
            return self.doing("put", str(arguments[at]), lambda: real(*arguments, **settings))

        return put


class _WatchedFile(io.FileIO):
    def __init__(self, watch: Watch, named: str, path: str, mode: str) -> None:
        self._watch, self._named = watch, named
        super().__init__(path, mode)

    def write(self, data: Any, /) -> int:
        at = os.fstat(self.fileno()).st_size if "a" in self.mode else self.tell()
        return self._watch.written(self._named, bytes(data), at, super().write)


def _opened(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def replace_everywhere(real: object, by: object) -> int:
    """Put `by` into every module of the packages, of tests and of its own where `real` is; in how many places."""
    known = ("blip_", "tests.", str(getattr(real, "__module__", "")).partition(".")[0])
    places = [
        (module, name)
        for module_name, module in list(sys.modules.items())
        if module and module_name.startswith(known)
        for name, value in list(vars(module).items())
        if value is real
    ]
    for module, name in places:
        setattr(module, name, by)
    return len(places)
