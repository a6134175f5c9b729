"""The Parquet files of runs on object stores as DuckDB reads them: by ranges, with few requests, and no other files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from glob import escape
from typing import Any, ClassVar
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa

from blip_bootstrap.storage.remote import Remote


class _Ranges:
    """A file of a store as DuckDB reads one: each handle has its own place in a source that all of them share."""

    def __init__(self, source: Callable[[], pa.NativeFile], size: int) -> None:
        self.source, self.size, self.place, self.closed = source, size, 0, False

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        self.place = place + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def read(self, size: int = -1) -> bytes:
        left = max(self.size - self.place, 0)
        content: bytes = self.source().read_at(left if size < 0 else min(size, left), self.place)
        self.place += len(content)
        return content

    def close(self) -> None:
        self.closed = True


def attach(connection: duckdb.DuckDBPyConnection, remotes: Sequence[Remote]) -> None:
    """Let a connection read the Parquet files of these runs, and nothing else of their stores."""
    from fsspec.implementations.arrow import ArrowFSWrapper  # start-up: only runs on stores need it

    for scheme in {urlsplit(one.uri).scheme for one in remotes}:
        mine = [one for one in remotes if urlsplit(one.uri).scheme == scheme]
        known = {f"{one.start}/{file}".partition("://")[2]: stamp for one in mine for file, stamp in one.stamps.items()}

        class ReadOnly(ArrowFSWrapper):  # type: ignore[misc]
            """The store as DuckDB sees it, whose `allowed_paths` would take `run/../other` for a file of the run."""

            protocol = scheme
            cachable = False  # an instance belongs to these lists of files
            files = known
            sources: ClassVar[dict[str, pa.NativeFile]] = {}
            patterns: ClassVar = {escape(file): file for file in known}

            def glob(self, path: str, **settings: Any) -> list[str]:
                """The files that a pattern names: a name with brackets comes as one, as `scan` escapes it.

                fsspec's own way lists every folder of the bucket for it.
                """
                pattern = path.partition("://")[2] or path
                if pattern in self.patterns:
                    return [self.patterns[pattern]]
                return sorted(file for file in self.files if fnmatchcase(file, pattern))

            def info(self, path: str, **settings: Any) -> dict[str, Any]:
                """What the list says: DuckDB asks some fifteen times about each file, which were as many requests."""
                path = path.partition("://")[2] or path
                if path not in self.files:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
                size, time_s = self.files[path]
                return {"name": path, "size": size, "type": "file", "mtime": datetime.fromtimestamp(time_s, UTC)}

            def modified(self, path: str) -> datetime:
                """When a file was put there, as the list says."""
                found: datetime = self.info(path)["mtime"]
                return found

            def _open(self, path: str, mode: str = "rb", **settings: Any) -> Any:
                if mode != "rb" or path not in self.files:
                    raise PermissionError(f"{path}: only Parquet files of the run can be read")
                return _Ranges(lambda: self.source(path), self.files[path][0])

            def source(self, path: str) -> pa.NativeFile:
                """A file opened once, at its first read: DuckDB opens each one seven times, a request each."""
                if path not in self.sources:
                    found = self.fs.open_input_file(path)
                    if found.size() != self.files[path][0]:
                        raise OSError(f"{path} is another one since it was listed; ask again")
                    self.sources[path] = found
                return self.sources[path]

        connection.register_filesystem(ReadOnly(mine[0].store[0]))
