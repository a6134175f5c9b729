"""Where an export goes: a folder of this machine, or one of an object store (s3://, gs://)."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from blip_bootstrap.paths import root_text
from blip_bootstrap.storage.files import staged_file
from blip_bootstrap.stores.client import THREADS, Store, told_uri


@dataclass(frozen=True)
class Place:
    """A folder, by its absolute path or its URI; names in it have slashes."""

    at: str

    @classmethod
    def of(cls, path: Path) -> Place:
        """The place that an argument of the command line names."""
        text = root_text(path)
        return cls(quote(text, safe="%/?&=:@+,;!$'()*~-._") if "://" in text else str(path.absolute()))

    @property
    def is_here(self) -> bool:
        """Whether it is a folder of this machine."""
        return "://" not in self.at

    @property
    def local(self) -> Path:
        """The folder, where it is one of this machine."""
        return Path(self.at)

    @property
    def told(self) -> str:
        """Its name for people."""
        return self.at if self.is_here else told_uri(self.at)

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        """A file for the body to write, which then is there under `name`, whole; not at all where the body raises."""
        if self.is_here:
            path = Path(self.at, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with staged_file(path) as staged:
                yield staged
            return
        with tempfile.TemporaryDirectory(prefix="blip-bootstrap-export-") as folder:
            yield Path(folder, "file")
            self._put(name, Path(folder, "file"))

    @contextmanager
    def staged_folder(self, name: str) -> Iterator[Path]:
        """A folder for the body to fill, which then is there under `name`, in place of one that was."""
        if not self.is_here:
            with tempfile.TemporaryDirectory(prefix="blip-bootstrap-export-") as folder:
                yield Path(folder)
                with ThreadPoolExecutor(THREADS) as pool:
                    for _ in pool.map(lambda one: self._put(f"{name}/{one.name}", one), Path(folder).iterdir()):
                        pass
            return
        path = Path(self.at, name)
        staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        staged.mkdir(parents=True)
        try:
            yield staged
            os.sync()  # once, and not for each of ten thousand pictures: after a power cut they are whole, too
            shutil.rmtree(path, ignore_errors=True)  # of a run that was killed before it wrote the list of them
            staged.rename(path)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def write(self, name: str, content: bytes) -> None:
        """Give a name these bytes."""
        with self.staged(name) as staged:
            staged.write_bytes(content)

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None where there is none."""
        if self.is_here:
            path = Path(self.at, name)
            return path.read_bytes() if path.is_file() else None
        store = _store(self.at, os.getpid())
        with store.asking("read", name):
            if store.stat(name) is None:
                return None
            with store.reader.open_input_stream(f"{store.bucket}/{store.key(name)}") as source:
                return bytes(source.read())

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        if self.is_here:
            path = Path(self.at, name)
            return path.stat().st_size if path.is_file() else None
        store = _store(self.at, os.getpid())
        with store.asking("read", name):
            stamp = store.stat(name)
        return stamp[0] if stamp else None

    def has_any(self) -> bool:
        """Whether there is anything at all, but for hidden files."""
        if self.is_here:
            folder = Path(self.at)
            return folder.is_dir() and any(not one.name.startswith(".") for one in folder.iterdir())
        store = _store(self.at, os.getpid())
        with store.asking("read"):
            return bool(store.listing())

    def names(self, below: str) -> set[str]:
        """The names of the files in a folder of it."""
        if self.is_here:
            return {one.name for one in Path(self.at, below).glob("*") if not one.name.startswith(".")}
        store = _store(self.at, os.getpid())
        with store.asking("read", below):
            return {name.rpartition("/")[2] for name in store.listing(below)}

    def delete(self, names: list[str]) -> None:
        """Delete files; those that are not there do not matter."""
        if self.is_here:
            for name in names:
                Path(self.at, name).unlink(missing_ok=True)
        else:
            _store(self.at, os.getpid()).delete(names)

    def sweep(self) -> None:
        """Delete what an export that was killed was writing here; nobody else may be at work."""
        for path in Path(self.at).rglob(".*.tmp") if self.is_here else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _put(self, name: str, file: Path) -> None:
        store = _store(self.at, os.getpid())
        store.put(name, file)
        store.written.discard(name)  # of use to runs alone, and one for each picture


@lru_cache(maxsize=4)
def _store(uri: str, _process: int) -> Store:
    return Store(uri, Path(tempfile.gettempdir()))


class Hashed:
    """A binary file that is hashed while it is written."""

    closed = False

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._sha, self.size_bytes = hashlib.sha256(), 0

    def __enter__(self) -> Hashed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def sha256(self) -> str:
        """The digest of what was written so far, 64 hex digits."""
        return self._sha.hexdigest()

    def write(self, data: bytes) -> int:
        """Append bytes."""
        view = memoryview(data)
        self._sha.update(view)
        self.size_bytes += view.nbytes
        while view.nbytes:
            view = view[self._file.write(view) :]
        return len(data)

    def tell(self) -> int:
        """The number of bytes so far."""
        return self.size_bytes

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """End it; pyarrow closes what it writes to."""
        self.closed = True
        self._file.close()
