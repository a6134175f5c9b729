"""The requests to an object store that a run makes: pyarrow reads; obstore writes, deletes and locks.

obstore writes a small file by one request, which replaces the file as a whole, and can make that conditional.
"""

from __future__ import annotations

import configparser
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs

from blip_bootstrap.errors import RunFailed

RECORDS = ("MANIFEST.json", "round.json", "shared.json")
"""What makes others' work count; nobody writes one whose lock on the run was taken from him."""

RETRIES: dict[str, Any] = {"max_retries": 8, "retry_timeout": timedelta(seconds=60)}

GOOGLE_RETRY_S = 15

THREADS = 16
"""Requests at a time, of some 30 ms each."""


class Store:
    """A run on an object store: `uri`, its working copy `folder`, and requests by names under the run."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self.folder = uri, folder.resolve()
        parts = urlsplit(uri.partition("?")[0])
        self.told = told_uri(uri)
        self.scheme, self.settings = parts.scheme, dict(parse_qsl(uri.partition("?")[2]))
        self.bucket, self.prefix = parts.netloc.rpartition("@")[2], unquote(parts.path).strip("/")
        self.written: set[str] = set()  # by this process, since the copy was compared
        self.check: Callable[[], None] = lambda: None  # raises where this process has lost its lock
        self._clients: dict[tuple[str, int], Any] = {}

    def key(self, name: str) -> str:
        """The key of a name under the run."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def place(self, path: Path) -> str:
        """Where a path of the working copy lies for `reader`: bucket and key."""
        return f"{self.bucket}/{self.key(path.resolve().relative_to(self.folder).as_posix())}"

    @property
    def reader(self) -> Any:
        """pyarrow's file system."""
        return self._client("reader", lambda: pyarrow.fs.FileSystem.from_uri(_within_seconds(self.uri))[0])

    @property
    def writer(self) -> Any:
        """obstore's client of the bucket."""
        return self._client("writer", self._make_writer)

    def _client(self, kind: str, make: Callable[[], Any]) -> Any:
        key = kind, os.getpid()  # a client's threads are not in a forked process
        if key not in self._clients:
            self._clients[key] = make()
        return self._clients[key]

    def _make_writer(self) -> Any:
        from obstore import store as clients  # runs on stores alone need it

        gcs: Any = clients.GCSStore
        s3: Any = clients.S3Store
        user, _, password = urlsplit(self.uri).netloc.rpartition("@")[0].partition(":")
        if self.scheme == "gs":
            return gcs(self.bucket, retry_config=RETRIES, **_gcs_settings(self.settings))
        config: dict[str, Any] = {"region": self.reader.region or "us-east-1", **_shared_credentials()}
        if endpoint := self.settings.get("endpoint_override"):
            config["endpoint"] = (
                endpoint if "://" in endpoint else f"{self.settings.get('scheme', 'https')}://{endpoint}"
            )
        if user:
            config |= {"access_key_id": unquote(user), "secret_access_key": unquote(password)}
        return s3(self.bucket, config=config, client_options={"allow_http": True}, retry_config=RETRIES)

    def listing(self, below: str = "", missing_ok: bool = True) -> dict[str, tuple[int, int]]:
        """Size and time (s) of every file at or below a folder of the run, by name under the run."""
        place = f"{self.bucket}/{self.key(below)}".rstrip("/")
        selector = pyarrow.fs.FileSelector(place, recursive=True, allow_not_found=missing_ok)
        start = len(f"{self.bucket}/{self.key('')}")
        found = self.reader.get_file_info(selector)
        return {one.path[start:]: _stamp(one) for one in found if one.type == pyarrow.fs.FileType.File}

    def stat(self, name: str) -> tuple[int, int] | None:
        """Size and time (s) of a file; None where there is none."""
        info = self.reader.get_file_info(f"{self.bucket}/{self.key(name)}")
        return _stamp(info) if info.type == pyarrow.fs.FileType.File else None

    def put(self, name: str, file: Path) -> None:
        """Give a name the bytes of a file here, whose time becomes the store's, so that both are known to be equal."""
        if name.rpartition("/")[2] in RECORDS:
            self.check()
        with self.asking("written", name):
            self.writer.put(self.key(name), file)
            stamp = self.stat(name)
        if stamp:
            os.utime(file, (stamp[1], stamp[1]))
        self.written.add(name)

    def delete(self, names: list[str]) -> None:
        """Delete files; those that are not there do not matter."""
        with self.asking("deleted", names[0] if names else ""):
            for name in names:  # one by one, in their order: a MANIFEST goes first
                self.writer.delete(self.key(name))
        self.written.difference_update(names)

    def fetch(self, name: str, stamp: tuple[int, int]) -> None:
        """Copy a file of the store to its place in the working copy."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.with_name(f".{target.name}.{os.getpid()}.{id(stamp)}.fetch.tmp")
        try:
            where = f"{self.bucket}/{self.key(name)}"
            with self.asking("read", name), staged.open("wb") as file, self.reader.open_input_stream(where) as source:
                shutil.copyfileobj(source, file, 1 << 22)
            os.utime(staged, (stamp[1], stamp[1]))
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)

    def fetch_all(self, stamps: Mapping[str, tuple[int, int]], gone_ok: bool = False) -> None:
        """Copy those files that are not here, or are others here; `gone_ok`: those that a run at work has not deleted.

        Raises RunFailed for others that are not there.
        """
        lacking = [name for name, stamp in stamps.items() if not is_same(self.folder / name, stamp)]

        def copied(name: str) -> None:
            try:
                self.fetch(name, stamps[name])
            except RunFailed as error:
                if not (gone_ok and isinstance(error.__cause__, FileNotFoundError)):
                    raise

        with ThreadPoolExecutor(THREADS, thread_name_prefix="fetch") as pool:
            for _ in pool.map(copied, lacking):
                pass

    @contextmanager
    def asking(self, what: str, name: str = "") -> Iterator[None]:
        """A context for requests: raises RunFailed with one line where the store refuses or does not answer."""
        from obstore.exceptions import BaseError  # as above

        try:
            yield
        except (BaseError, OSError, pa.ArrowException) as error:
            where = f"{self.told}/{name}" if name else self.told
            raise RunFailed(f"{where}: cannot be {what} ({why(error)}); the same command goes on from here") from error


def told_uri(uri: str) -> str:
    """A URI for people: without its settings and keys, which may be secret."""
    scheme, _, rest = uri.partition("?")[0].rstrip("/").partition("://")
    bucket, slash, key = rest.partition("/")
    return f"{scheme}://{bucket.rpartition('@')[2]}{slash}{key}"


def _within_seconds(uri: str) -> str:
    """A URI for pyarrow, whose client of Google else tries for 15 minutes, deaf to signals, without credentials too."""
    if not uri.startswith("gs:") or "retry_limit_seconds=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={GOOGLE_RETRY_S}"


def why(error: BaseException) -> str:
    """What a store said, in a few words."""
    text = str(error)
    told = next((text for signs, text in _SAID.items() if any(sign in str(error) for sign in signs.split("|"))), None)
    return told or text.splitlines()[0][:300]


_SAID = {
    "Path does not exist": "there is no such run",
    "NoSuchBucket|bucket does not exist|NO_SUCH_BUCKET": "there is no such bucket",
    "AccessDenied|403 Forbidden|ACCESS_DENIED|HTTP status 403|PermissionDenied": "the credentials do not allow it",
    "InvalidAccessKeyId|SignatureDoesNotMatch|401 Unauthorized|INVALID_ACCESS_KEY_ID": "the credentials are wrong",
    "Cannot parse URI": "it is no URI; write %25 for the sign %",
    "OAuth2 access token|default credentials": "no credentials were found; set GOOGLE_APPLICATION_CREDENTIALS",
    "error sending request|curlCode|Couldn't connect|NETWORK_CONNECTION": "it does not answer",
    "169.254.169.254|metadata.google|NO_CREDENTIALS|Anonymous caller": "no credentials were found",
}


def _stamp(info: Any) -> tuple[int, int]:
    return info.size, int((info.mtime_ns or 0) // 1_000_000_000)  # HEAD tells whole seconds, LIST may tell more


def is_same(file: Path, stamp: tuple[int, int]) -> bool:
    """Whether a file here is the one on the store, by size and time, as `put` and `fetch` leave them."""
    try:
        stat = file.lstat()
    except FileNotFoundError:
        return False
    return (stat.st_size, int(stat.st_mtime)) == stamp


def _shared_credentials() -> dict[str, str]:
    """The keys in ~/.aws/credentials, which pyarrow reads and obstore does not; none where the environment has some."""
    if any(os.environ.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "WEB_IDENTITY_TOKEN_FILE")):
        return {}
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or os.path.expanduser("~/.aws/credentials")  # noqa: PTH111
    found = configparser.ConfigParser()
    try:
        found.read(file, encoding="utf-8")
        profile = dict(found[os.environ.get("AWS_PROFILE") or "default"])
    except (configparser.Error, KeyError, OSError):
        return {}
    names = {
        "aws_access_key_id": "access_key_id",
        "aws_secret_access_key": "secret_access_key",
        "aws_session_token": "token",
    }
    return {ours: profile[theirs] for theirs, ours in names.items() if theirs in profile}


def _gcs_settings(settings: Mapping[str, str]) -> dict[str, Any]:
    """Settings of Google's client: an endpoint of one's own is that of an emulator, which asks for no credentials."""
    endpoint = settings.get("endpoint_override")
    if not endpoint:
        return {}
    key = {
        "gcs_base_url": endpoint if "://" in endpoint else f"{settings.get('scheme', 'https')}://{endpoint}",
        "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": "",
    }  # fmt: skip
    return {"config": {"service_account_key": json.dumps(key)}, "client_options": {"allow_http": True}}
