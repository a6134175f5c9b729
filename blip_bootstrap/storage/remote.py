"""Runs on an object store (s3://, gs://), read only: small files are copied here, Parquet is read where it lies.

The copy lies under ~/.cache/blip-bootstrap (or $XDG_CACHE_HOME), one folder for each run; labels and pages that are
made of such a run lie there, too. Credentials and endpoint are the environment's (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, ...), or in the URI as pyarrow takes them (`?endpoint_override=...&region=...`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

import duckdb
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from blip_bootstrap.errors import InputError
from blip_bootstrap.paths import path_argument, user_folder
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.parquet import missing_part
from blip_bootstrap.storage.pointers import all_pointers, relink
from blip_bootstrap.storage.run_folder import named_files

LISTING = ".remote.json"

_URI = re.compile(r"(s3|gs):/+(.+)")

_URI_SIGNS = "%/?&=:@+,;!$'()*~-._"
"""Signs that a URI may hold; spaces, brackets and letters beyond ASCII, which users write, are percent-encoded."""

_SMALL = re.compile(
    r"(.*/)?(MANIFEST\.json|\.[^/]*\.MANIFEST\.json|metrics\.jsonl?|config\.yaml|shared\.json|round\.json)|(labels|languages)/[^/]*\.parquet"
)


@dataclass(frozen=True)
class Remote:
    """A run on an object store: its URI, its Parquet files by their place in the run, and its local folder."""

    uri: str
    files: tuple[str, ...]
    folder: Path

    @cached_property
    def start(self) -> str:
        """The beginning of the paths that DuckDB sees: the URI without its settings, `%20` read as a space."""
        return f"{self.uri.partition('://')[0]}://{self.store[1]}"

    @cached_property
    def store(self) -> tuple[Any, str]:
        """The file system of pyarrow, and the run's path in it."""
        return _store(self.uri)

    def parquet_files(self, folder: Path) -> list[str]:
        """The Parquet files on the store that `parquet.parquet_files` would name, for a folder of the local copy."""
        place = folder.resolve().relative_to(self.folder.resolve()).as_posix()  # a link of `relink` is no key there
        there = sorted(file for file in self.files if file.rpartition("/")[0] == place)
        if (named := named_files(folder)) is not None:
            there = [f"{place}/{name}" for name in named]
            if lacking := next((file for file in there if file not in self.files), None):
                raise InputError(missing_part(f"{self.start}/{lacking}"))
        return [f"{self.start}/{file}" for file in there]

    def schema(self, file: str) -> pa.Schema:
        """The Arrow schema of one of the files."""
        filesystem, _ = self.store
        return pq.read_schema(file.partition("://")[2], filesystem=filesystem)


def attach(connection: duckdb.DuckDBPyConnection, remotes: Sequence[Remote]) -> None:
    """Let a connection read the Parquet files of these runs, and nothing else of their stores."""
    from fsspec.implementations.arrow import ArrowFSWrapper  # start-up: only runs on stores need it

    for scheme in {urlsplit(one.uri).scheme for one in remotes}:
        mine = [one for one in remotes if urlsplit(one.uri).scheme == scheme]
        known = {f"{one.start}/{file}".partition("://")[2] for one in mine for file in one.files}

        class ReadOnly(ArrowFSWrapper):  # type: ignore[misc]
            """The store as DuckDB sees it, whose `allowed_paths` would take `run/../other` for a file of the run."""

            protocol = scheme
            cachable = False  # an instance belongs to these lists of files
            files = frozenset(known)
            patterns: ClassVar = {escape(file): file for file in known}

            def glob(self, path: str, **settings: Any) -> list[str]:
                """The files that a pattern names: a name with brackets comes as one, as `scan` escapes it.

                fsspec's own way lists every folder of the bucket for it.
                """
                pattern = path.partition("://")[2] or path
                if pattern in self.patterns:
                    return [self.patterns[pattern]]
                return sorted(file for file in self.files if fnmatchcase(file, pattern))

            def _open(self, path: str, mode: str = "rb", **settings: Any) -> Any:
                if mode != "rb" or path not in self.files:
                    raise PermissionError(f"{path}: only Parquet files of the run can be read")
                return super()._open(path, mode, **settings)

        connection.register_filesystem(ReadOnly(mine[0].store[0]))


def opened(root: Path | str) -> Path:
    """The folder where a run can be read: `root`, or for an s3:// or gs:// URI its local copy, brought up to date.

    Every function with a parameter `root` takes this folder. Raises InputError where the store has no such run or
    refuses to show it.
    """
    found = _URI.fullmatch(str(root))  # a Path has lost one of the slashes
    if not found:
        return root if isinstance(root, Path) else path_argument(root)
    uri = f"{found[1]}://{quote(found[2], safe=_URI_SIGNS)}"
    try:
        return _copied(uri)
    except UnicodeDecodeError as error:
        raise InputError(f"{uri}: a % stands before two hex digits in a URI; write %25 for the sign itself") from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{uri}: cannot be read ({str(error).splitlines()[0][:300]})") from error


def remote_of(root: Path) -> Remote | None:
    """The run on a store of which a folder is the local copy, as `opened` noted; None where it is a run itself."""
    path = root / LISTING
    if not path.is_file():
        return None
    listing = json.loads(path.read_text(encoding="utf-8"))
    return Remote(listing["uri"], tuple(sorted(f for f in listing["files"] if _is_table(f))), root)


def local_folder(uri: str) -> Path:
    """Where the local copy of a run's small files lies."""
    name = uri.partition("?")[0].rstrip("/")
    return (
        user_folder("XDG_CACHE_HOME", ".cache")
        / "blip-bootstrap"
        / hashlib.sha256(name.encode()).hexdigest()[:16]
        / name.rpartition("/")[2]
    )


def _copied(uri: str) -> Path:
    """List the run, copy its small files that are new or changed, and drop those that are gone."""
    (filesystem, place), folder = _store(uri), local_folder(uri)
    if "?" in place:  # fsspec cuts the names of files there
        raise InputError(f"{uri}: a key with a question mark cannot be read; copy the run to another one")
    found = filesystem.get_file_info(pyarrow.fs.FileSelector(place, recursive=True))
    stamps = {
        info.path.removeprefix(f"{place}/"): f"{info.size} {info.mtime_ns}"
        for info in found
        if info.type == pyarrow.fs.FileType.File and not _hidden(info.path.removeprefix(f"{place}/"))
    }
    for _, name, _ in list(all_pointers(folder)):
        if (folder / name).is_symlink():  # made below where the store, as it is now, lacks it
            (folder / name).unlink()
    was: Mapping[str, str] = json.loads(_text(folder / LISTING) or "{}").get("files", {})
    for name in was.keys() - stamps.keys():
        (folder / name).unlink(missing_ok=True)
    for name, stamp in stamps.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if _SMALL.fullmatch(name) and (was.get(name) != stamp or not (folder / name).exists()):
            write_whole(folder / name, filesystem.open_input_file(f"{place}/{name}").readall())
    folder.mkdir(parents=True, exist_ok=True)
    relink(folder)
    write_whole(folder / LISTING, json.dumps({"uri": uri, "files": stamps}).encode())
    return folder


def _store(uri: str) -> tuple[Any, str]:
    filesystem, place = pyarrow.fs.FileSystem.from_uri(uri)
    return filesystem, place.rstrip("/")


def _hidden(name: str) -> bool:
    """Whether a name is of something staged; the hidden MANIFEST beside a file is not."""
    *folders, last = name.split("/")
    return any(one.startswith(".") for one in folders) or (last[0] == "." and not last.endswith("MANIFEST.json"))


def _is_table(name: str) -> bool:
    return name.endswith(".parquet") and not _SMALL.fullmatch(name)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
