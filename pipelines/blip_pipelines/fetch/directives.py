"""What servers say about the use of their pictures: X-Robots-Tag, TDM-Reservation, Content-Usage."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.message import Message
from typing import Any

from blip_bootstrap.config import DownloadConfig
from blip_pipelines.fetch.deadlines import FetchError

NOAI = frozenset(("noai", "noimageai"))

NOINDEX = frozenset(("noindex", "noimageindex", "none"))
"""`none` stands for noindex and nofollow."""

VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
"""X-Robots-Tag directives that have a value after a colon; any other word before a colon names a crawler."""

TRAINING = "train-ai"
"""The category of Content-Usage that this program's use is of (draft-ietf-aipref-vocab-06, section 4.1)."""

MAX_SAID_CHARS = 1_000
"""What is stored of one statement; a header may have 65,536 bytes."""

_KEY = re.compile(r"[a-z*][a-z0-9_.*-]*")

_MEMBER = re.compile(r"""(?:"(?:[^"\\]|\\.)*"|[^",])*""")
"""One member of a structured dictionary (RFC 9651), its parameters included; commas in quotes do not end it."""


@dataclass(frozen=True)
class Said:
    """What was said about one URL, in the words of the host, each with its source where there may be two; and when.

    None: nothing was said, or nobody asked.
    """

    robots_txt: str | None = None
    x_robots_tag: str | None = None
    tdm_reservation: str | None = None
    content_usage: str | None = None
    at: datetime | None = None

    def over(self, earlier: Said) -> Said:
        """This and what was said earlier and not said again."""
        return Said(**{name: getattr(earlier, name) if value is None else value for name, value in vars(self).items()})


NOTHING_SAID = Said()


def utc_now() -> datetime:
    """The time, UTC, to the millisecond and without a zone, as tables have it."""
    now = datetime.now(UTC).replace(tzinfo=None)
    return now.replace(microsecond=now.microsecond // 1_000 * 1_000)


def said_by_headers(headers: Message) -> Said:
    """What the headers of an answer say; TDM's policy stands after its value."""
    tags, usage = (_joined(headers.get_all(name, [])) for name in ("X-Robots-Tag", "Content-Usage"))
    reservation, policy = (_joined(headers.get_all(name, [])) for name in ("TDM-Reservation", "TDM-Policy"))
    tdm = f"header: {reservation} {policy or ''}".rstrip() if reservation else None
    return Said(None, tags, tdm, f"header: {usage}" if usage else None, utc_now())


def _joined(values: Iterable[str]) -> str | None:
    return ", ".join(" ".join(value.split()) for value in values)[:MAX_SAID_CHARS] or None


def check_headers(headers: Message, config: DownloadConfig) -> None:
    """Raise FetchError (disallowed) where the headers of an answer forbid a use that `config` has obeyed."""
    refused = (NOAI if config.honour_noai else frozenset()) | (NOINDEX if config.honour_noindex else frozenset())
    robots = headers.get_all("X-Robots-Tag", [])
    if refused and any(is_disallowed(value, token_of(config.user_agent), refused) for value in robots):
        raise FetchError("disallowed", f"X-Robots-Tag: {', '.join(robots)}")
    for value in headers.get_all("TDM-Reservation", []) if config.tdm_reservation == "obey" else []:
        if value.strip() == "1":
            raise FetchError("disallowed", "TDM-Reservation: 1")
    usage = headers.get_all("Content-Usage", [])
    if config.content_usage == "obey" and preference(usage) is False:
        raise FetchError("disallowed", f"Content-Usage: {', '.join(usage)}"[:MAX_SAID_CHARS])


def is_disallowed(value: str, token: str, refused: frozenset[str] = NOAI) -> bool:
    """Whether an X-Robots-Tag has one of the words `refused` for all, or for the crawler named `token`.

    A name before a colon addresses what follows it, up to the next name (img2dataset's rule).
    """
    addressed = True
    for piece in value.split(","):
        name, colon, directive = piece.strip().lower().partition(":")
        if colon and name.strip() not in VALUED:
            addressed = name.strip() in ("*", token)
        else:
            directive = name
        if addressed and directive.strip() in refused:
            return True
    return False


def token_of(user_agent: str) -> str:
    """The crawler name that servers use, lower case: the product after `compatible;` in the agent, else its first."""
    name = user_agent.partition("compatible;")[2] or user_agent
    return name.strip(" ()").split(";")[0].split("/")[0].strip().lower()


def preference(values: Sequence[str]) -> bool | None:
    """What statements of Content-Usage say about training: True allowed, False not, None nothing that is understood.

    Values of one header are one dictionary, of which the last `train-ai` counts (RFC 9651, section 4.2.2); one that
    cannot be parsed says nothing.
    """
    found = None
    for member in _members(", ".join(values)):
        key, equals, _ = member.partition(";")[0].rstrip(" \t").partition("=")
        if not _KEY.fullmatch(key):
            return None
        if key == TRAINING:
            found = {"y": True, "n": False}.get(_bare(member)) if equals else None
    return found


def _members(text: str) -> list[str]:
    text = text.strip(" \t")
    return [member.strip(" \t") for member in _MEMBER.findall(text) if member.strip(" \t")] if text else []


def _bare(member: str) -> str:
    """The value of a member without its parameters; those before `=` belong to a key without a value."""
    return member.partition("=")[2].partition(";")[0].strip(" \t")


def strictest(found: Iterable[bool | None]) -> bool | None:
    """Several statements as one: not allowed where one says so, else allowed where one says so (vocab, section 5.1)."""
    stated = [one for one in found if one is not None]
    return all(stated) if stated else None


def matches(pattern: str, path: str) -> bool:
    """Whether a path begins with a pattern of robots.txt, in which `*` is anything and `$` at the end the end.

    Pieces are looked for one after the other, so that no pattern takes longer than its length times the path's.
    """
    ends = pattern.endswith("$")
    first, *others = (pattern[:-1] if ends else pattern).split("*")
    if not path.startswith(first):
        return False
    at = len(first)
    for number, piece in enumerate(others, 1):
        if ends and number == len(others):
            return len(path) - len(piece) >= at and path.endswith(piece)
        if (found := path.find(piece, at)) < 0:
            return False
        at = found + len(piece)
    return not ends or at == len(path)


@dataclass(frozen=True)
class TdmRule:
    """One rule of a site's tdmrep.json: whether rights are reserved at paths that match `location`, and the policy."""

    location: str
    reservation: int
    policy: str = ""

    @property
    def said(self) -> str:
        """The rule's value in words."""
        return f"tdmrep.json: {self.reservation} {self.policy}".rstrip()[:MAX_SAID_CHARS]


def read_tdmrep(text: str) -> list[TdmRule]:
    """The rules of a tdmrep.json in their order; what is no rule is left out, and a file that is no list has none."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return []
    rules = given if isinstance(given, list) else [given]
    return [rule for one in rules if isinstance(one, Mapping) and (rule := _rule(one))]


def _rule(given: Mapping[Any, Any]) -> TdmRule | None:
    location, value, policy = given.get("location"), given.get("tdm-reservation"), given.get("tdm-policy")
    if not isinstance(location, str) or str(value) not in ("0", "1"):
        return None
    return TdmRule(location, int(str(value)), " ".join(policy.split()) if isinstance(policy, str) else "")


def tdm_rule(rules: Sequence[TdmRule], path: str) -> TdmRule | None:
    """The rule for a path: the first that matches (TDM Reservation Protocol, "TDM File on the Origin Server")."""
    return next((rule for rule in rules if matches(rule.location, path)), None)


def beside(headers: Said, files: Said) -> Said:
    """What the headers of an answer and the site's files say; Content-Usage of both, of the others the headers first.

    Headers count before tdmrep.json (TDM Reservation Protocol, section "Processing priority").
    """
    both = [one for one in (headers.content_usage, files.content_usage) if one]
    return replace(headers.over(files), content_usage="; ".join(both)[:MAX_SAID_CHARS] or None)
