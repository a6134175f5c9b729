"""Whether a URL may be asked, and when: the limits of its host, and what its site says to this program."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult

from blip_bootstrap.config import DownloadConfig
from blip_pipelines.fetch.deadlines import Deadline, FetchError
from blip_pipelines.fetch.directives import NOTHING_SAID, Said, token_of, utc_now
from blip_pipelines.fetch.fetch import fetch_text, split
from blip_pipelines.fetch.hosts import Hosts, Limits, Outcome, hosts_in
from blip_pipelines.fetch.proxies import Proxies
from blip_pipelines.fetch.robots import SiteFiles
from blip_pipelines.fetch.sites import Sites, sites_in

UNREACHABLE = ("dns", "connection", "timeout", "proxy")
"""Failures of robots.txt that its URLs would have as well, and get: the site is asked for them again each time."""

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Shared:
    """What the processes of a run share: a folder on each machine (None: there is one), limits over `machines`."""

    folder: Path | None = None
    machines: int = 1


class Courtesy:
    """A gate for the URLs of a run; what it knows is shared by all processes with the same folder."""

    def __init__(
        self,
        config: DownloadConfig,
        own_hosts: frozenset[str] = frozenset(),
        proxies: Proxies | None = None,
        shared: Shared | None = None,
    ) -> None:
        """`own_hosts`, this run's own servers, are asked without limits."""
        folder, machines = (shared.folder, shared.machines) if shared else (None, 1)
        limits, token = Limits.of(config, machines), token_of(config.user_agent)
        if folder and not folder.exists():
            _clear(folder.parent)
        self.hosts = hosts_in(folder, limits) if folder else Hosts(None, limits)
        self.sites = sites_in(folder, token) if folder else Sites(None, token)
        self._config, self._own_hosts, self._proxies = config, own_hosts, proxies or Proxies()

    def host_of(self, url: str) -> str:
        """The host whose limits a URL has, with its port where that is unusual; "": it has none."""
        try:
            parts = split(url.strip())
        except FetchError:
            return ""
        return "" if self._is_own(parts) else _host(parts)

    def _is_own(self, parts: SplitResult) -> bool:
        return f"{parts.hostname}:{parts.port or PORTS[parts.scheme]}" in self._own_hosts

    @contextmanager
    def passing(self, parts: SplitResult, hop: int, deadline: Deadline) -> Iterator[Said]:
        """A context in which a URL may be asked, and what its site says about it.

        Whoever asks for hop 0 has taken its host's connection. Raises FetchError: robots_txt or disallowed, host_rests
        where a redirect leads to a host that may not be asked within the deadline, or what asking its site gave.
        """
        if self._is_own(parts):
            yield NOTHING_SAID
            return
        host = _host(parts)
        if hop:
            self._enter(host, deadline)
        try:
            yield self._said(parts, host)
        finally:
            if hop:
                self.hosts.leave(host, Outcome())

    def _enter(self, host: str, deadline: Deadline) -> None:
        while (turn := self.hosts.enter(host)).wait_s:
            if turn.rests or turn.wait_s >= deadline.remaining_s():
                raise FetchError("host_rests", f"the redirect leads to {host}, which is not to be asked now")
            time.sleep(turn.wait_s)

    def _said(self, parts: SplitResult, host: str) -> Said:
        if self._config.robots == "ignore" and self._config.tdm_reservation == "ignore":
            return NOTHING_SAID
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"
        try:
            site = self.sites.get(address, lambda: self._ask(address))
        except FetchError:
            if self._config.robots == "obey":
                raise
            return Said(robots_txt="unreachable" if self._config.robots == "record" else None, at=utc_now())
        if site.crawl_delay_s and self._config.robots == "obey":
            self.hosts.slow_down(host, site.crawl_delay_s)
        said = site.said(parts)
        try:
            site.check(parts, self._config)
        except FetchError as error:
            error.said = said
            raise
        return said

    def _ask(self, site: str) -> SiteFiles:
        """Ask a site for its files. Raises FetchError where it cannot be reached."""
        status, robots = 0, None
        if self._config.robots != "ignore":
            status, robots = self._text(f"{site}/robots.txt")
        tdmrep = None
        if status < 500 and self._config.tdm_reservation != "ignore":
            _, tdmrep = self._text(f"{site}/.well-known/tdmrep.json")
        return SiteFiles(status, robots, tdmrep, utc_now())

    def _text(self, url: str) -> tuple[int, str | None]:
        """The status and text of a file of a site; 404 where the site leads nowhere with it (RFC 9309, 2.3.1.2-3)."""
        try:
            status, text = fetch_text(url, self._config, self._own_hosts, self._proxies)
        except FetchError as error:
            if error.error_class in UNREACHABLE:
                raise FetchError(error.error_class, f"{url}: {error.message}", error.retry) from error
            return 404, None
        return status or 404, text


def _clear(above: Path) -> None:
    """Delete what killed runs, and runs with workers on this machine alone, have left of such folders."""
    old = time.time() - 2 * 86_400
    for folder in above.glob("*-*"):
        with suppress(OSError):
            if folder.stat().st_mtime < old:
                shutil.rmtree(folder, ignore_errors=True)


def _host(parts: SplitResult) -> str:
    name = (parts.hostname or "").rstrip(".")
    return name if parts.port in (None, 80, 443) else f"{name}:{parts.port}"
