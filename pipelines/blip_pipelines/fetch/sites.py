"""The robots.txt and tdmrep.json of sites: asked for once in a run, and kept on disk for its other processes."""

from __future__ import annotations

import sqlite3
import threading
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from blip_pipelines.fetch.directives import utc_now
from blip_pipelines.fetch.robots import Site, SiteFiles

NUM_IN_MEMORY = 2_000
"""Sites whose rules a process keeps parsed; those of others it reads again from the disk."""

REFUSED_S = 60.0
"""Seconds after which a site is asked again whose robots.txt gave HTTP 5xx."""

_TABLES = """
CREATE TABLE IF NOT EXISTS sites (site TEXT PRIMARY KEY, status INTEGER, robots BLOB, tdmrep BLOB, at REAL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS asked (host TEXT PRIMARY KEY, num_rows INTEGER, num_good INTEGER, error_class TEXT)
    WITHOUT ROWID;
"""


class Sites:
    """The sites of a run ("https://host:8080"), and how many rows of each host gave a picture."""

    def __init__(self, folder: Path | None, token: str) -> None:
        """`folder` is shared with the run's other processes on this machine; None: nothing is kept on disk."""
        self._token, self._lock, self._changed = token, threading.Lock(), threading.Condition()
        self._known: OrderedDict[str, Site] = OrderedDict()
        self._asking: set[str] = set()
        self._db = _opened(folder)
        weakref.finalize(self, self._db.close)

    def get(self, site: str, ask: Callable[[], SiteFiles]) -> Site:
        """The rules of a site; where they are not known `ask` asks for them, while who else wants them here waits.

        What `ask` raises is raised, and the next who wants them asks again.
        """
        with self._alone(site):
            found = self._find(site)
            if found is None:
                found = Site(ask(), self._token)
                self._keep(site, found)
            return found

    def count(self, hosts: Iterable[tuple[str, int, int, str | None]]) -> None:
        """Add to the counts of hosts: the host, its rows, how many gave a picture, and the last error class."""
        sql = (
            "INSERT INTO asked VALUES (?, ?, ?, ?) ON CONFLICT (host) DO UPDATE SET num_rows = num_rows + "
            "excluded.num_rows, num_good = num_good + excluded.num_good, error_class = excluded.error_class"
        )
        with self._lock, suppress(sqlite3.Error), self._db:  # what only a line tells ends no run
            self._db.executemany(sql, hosts)

    def lost(self, most: int) -> tuple[int, list[tuple[str, int, str]]]:
        """The number of hosts of which no row gave a picture, and `most` of them: host, rows, last error class."""
        with self._lock, suppress(sqlite3.Error):
            (count,) = self._db.execute("SELECT count(*) FROM asked WHERE num_good = 0").fetchone()
            named = "SELECT host, num_rows, error_class FROM asked WHERE num_good = 0 ORDER BY 2 DESC, 1 LIMIT ?"
            return count, self._db.execute(named, [most]).fetchall()
        return 0, []

    @contextmanager
    def _alone(self, site: str) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: site not in self._asking)
            self._asking.add(site)
        try:
            yield
        finally:
            with self._changed:
                self._asking.discard(site)
                self._changed.notify_all()

    def _find(self, site: str) -> Site | None:
        with self._lock:
            found = self._known.get(site) or self._read(site)
            if found is None or _is_old(found.files):
                return None
            self._remember(site, found)
            return found

    def _read(self, site: str) -> Site | None:
        rows = list[tuple[int, bytes | None, bytes | None, float]]()
        with suppress(sqlite3.Error):
            rows = self._db.execute("SELECT status, robots, tdmrep, at FROM sites WHERE site = ?", [site]).fetchall()
        for status, robots, tdmrep, at in rows:
            when = datetime.fromtimestamp(at, UTC).replace(tzinfo=None)
            return Site(SiteFiles(status, _unpacked(robots), _unpacked(tdmrep), when), self._token)
        return None

    def _keep(self, site: str, found: Site) -> None:
        files, at = found.files, found.files.at.replace(tzinfo=UTC).timestamp()
        row = [site, files.status, _packed(files.robots), _packed(files.tdmrep), at]
        with self._lock:
            self._remember(site, found)
            with suppress(sqlite3.Error):  # as a full disk: the site is asked again
                self._db.execute("INSERT OR REPLACE INTO sites VALUES (?, ?, ?, ?, ?)", row)

    def _remember(self, site: str, found: Site) -> None:
        self._known[site] = found
        self._known.move_to_end(site)
        if len(self._known) > NUM_IN_MEMORY:
            self._known.popitem(last=False)


@lru_cache(maxsize=4)
def sites_in(folder: Path | None, token: str) -> Sites:
    """This process's view of the sites that `folder` has."""
    return Sites(folder, token)


def _opened(folder: Path | None) -> sqlite3.Connection:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    place = ":memory:" if folder is None else str(folder / "sites.sqlite")
    db = sqlite3.connect(place, timeout=30, check_same_thread=False, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")  # after a power cut the sites are asked again
    db.executescript(_TABLES)
    return db


def _is_old(files: SiteFiles) -> bool:
    return files.status >= 500 and (utc_now() - files.at).total_seconds() > REFUSED_S


def _packed(text: str | None) -> bytes | None:
    return None if text is None else zlib.compress(text.encode("utf-8", "surrogatepass"))


def _unpacked(data: bytes | None) -> str | None:
    return None if data is None else zlib.decompress(data).decode("utf-8", "surrogatepass")
