"""What a site's robots.txt and tdmrep.json say about its URLs, to this program's crawler name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from urllib.parse import SplitResult

from protego import Protego

from blip_bootstrap.config import DownloadConfig
from blip_pipelines.fetch.deadlines import FetchError
from blip_pipelines.fetch.directives import (
    MAX_SAID_CHARS,
    Said,
    TdmRule,
    matches,
    preference,
    read_tdmrep,
    strictest,
    tdm_rule,
)

_LINE = re.compile(r"[ \t]*([A-Za-z-]+)[ \t]*:[ \t]*(.*?)[ \t]*")


@dataclass(frozen=True)
class SiteFiles:
    """What a site answered: its robots.txt (None: it has none; `status` from 500 on: it could not say), tdmrep.json.

    `at`: when, UTC. `status` 0: nobody asked for robots.txt.
    """

    status: int
    robots: str | None
    tdmrep: str | None
    at: datetime


class Site:
    """The rules of one site for the crawler named `token`."""

    def __init__(self, files: SiteFiles, token: str) -> None:
        self.files, self.token = files, token

    @cached_property
    def _robots(self) -> Protego:
        return Protego.parse((self.files.robots or "").lstrip("\ufeff"))

    @cached_property
    def _usage(self) -> Mapping[str, list[str]]:
        return usage_rules(self.files.robots or "", self.token)

    @cached_property
    def _tdm(self) -> list[TdmRule]:
        return read_tdmrep(self.files.tdmrep or "")

    @property
    def crawl_delay_s(self) -> float:
        """Seconds between two requests that robots.txt asks for, as Crawl-delay or Request-rate; 0: none."""
        rate = self._robots.request_rate(self.token)
        return max(self._robots.crawl_delay(self.token) or 0.0, rate.seconds / rate.requests if rate else 0.0)

    def said(self, parts: SplitResult) -> Said:
        """What the site's files say about a URL."""
        robots, path = self._verdict(parts), _path(parts)
        rule, usage = tdm_rule(self._tdm, path), "; ".join(self._usage_of(path))[:MAX_SAID_CHARS]
        content_usage = f"robots.txt: {usage}" if usage else None
        return Said(robots, None, rule.said if rule else None, content_usage, self.files.at)

    def check(self, parts: SplitResult, config: DownloadConfig) -> None:
        """Raise FetchError (robots_txt or disallowed) where the site's files forbid a URL, and `config` obeys them."""
        verdict, path = self._verdict(parts), _path(parts)
        if config.robots == "obey" and verdict in ("disallowed", "unreachable"):
            refused = f"HTTP {self.files.status}; refused for now" if verdict == "unreachable" else verdict
            raise FetchError("robots_txt", f"robots.txt of {parts.hostname}: {refused}")
        if config.content_usage == "obey" and strictest(preference([one]) for one in self._usage_of(path)) is False:
            raise FetchError("disallowed", f"robots.txt: Content-Usage {'; '.join(self._usage_of(path))}")
        rule = tdm_rule(self._tdm, path)
        if config.tdm_reservation == "obey" and rule and rule.reservation:
            raise FetchError("disallowed", rule.said)

    def _verdict(self, parts: SplitResult) -> str | None:
        """allowed, disallowed, none (there is no robots.txt) or unreachable (the server failed); None: not asked."""
        if not self.files.status:
            return None
        if self.files.status >= 500:
            return "unreachable"
        if self.files.robots is None:
            return "none"
        return "allowed" if self._robots.can_fetch(parts.geturl(), self.token) else "disallowed"

    def _usage_of(self, path: str) -> list[str]:
        """The statements of the longest matching path of Content-Usage."""
        found = [pattern for pattern in self._usage if matches(pattern, path)]
        return self._usage[max(found, key=len)] if found else []


def _path(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def usage_rules(text: str, token: str) -> dict[str, list[str]]:
    """The statements of Content-Usage lines by path, of the groups for `token`, else of those for all.

    draft-ietf-aipref-attach, section "Robots Exclusion Protocol Content-Usage Rule". A line without a path, as the
    first drafts had it, is of all paths.
    """
    groups: dict[str, dict[str, list[str]]] = {}
    agents, ended = list[str](), True
    for line in text.lstrip("\ufeff").splitlines():
        found = _LINE.fullmatch(line.partition("#")[0])
        if not found:
            continue
        name, value = found[1].lower(), found[2]
        if name == "user-agent":
            agents = [*([] if ended else agents), value.split("/")[0].strip().lower()]
            ended = False
            groups.setdefault(agents[-1], {})
        elif name != "sitemap":
            ended = True
            if name == "content-usage" and value:
                path, statement = _of_line(value)
                for agent in agents:
                    groups[agent].setdefault(path, []).append(statement)
    return groups.get(token, groups.get("*", {}))


def _of_line(value: str) -> tuple[str, str]:
    if not value.startswith("/"):
        return "/", value
    path, *rest = value.split(None, 1)
    return path, rest[0] if rest else ""
