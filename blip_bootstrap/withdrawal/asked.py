"""What somebody asks a run to forget: URLs, domains, digests of pictures, or a list of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.query.domains import is_public_suffix
from blip_bootstrap.reading.header import Header
from blip_bootstrap.reading.known_names import DIGEST_NAME, URL_NAMES, find_name
from blip_bootstrap.reading.records import is_list_file, read_records
from blip_bootstrap.reading.text_files import lines_of, plain_suffix
from blip_bootstrap.schemas.cells import NotTextError, text_of

_DIGEST = re.compile(r"[0-9a-f]{64}")

_HOST = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://(?:[^/?#@]*@)?(\[[^\]]*\]|[^/:?#]+)")

_DOMAIN = re.compile(r"[^\s/:?#@]+|\[[0-9a-f:]+\]")


@dataclass(frozen=True)
class Asked:
    """URLs as lists have them, hosts or registered domains in lower case, and sha256 digests of pictures' bytes."""

    urls: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    pictures: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.urls or self.domains or self.pictures)

    def is_of_domain(self, url: str) -> bool:
        """Whether a URL is of one of the domains, or of a host below one."""
        host = host_of(url)
        above = host.split(".")
        return any(".".join(above[at:]) in self.domains for at in range(len(above)))


def host_of(url: str) -> str:
    """The host of a URL in lower case; empty where it has none."""
    found = _HOST.match(url[:1000])
    return found[1].lower().rstrip(".") if found else ""


def asked(
    urls: Sequence[str] = (), domains: Sequence[str] = (), digests: Sequence[str] = (), lists: Sequence[Path] = ()
) -> Asked:
    """What is asked by the options of the command, checked. Raises InputError, naming the value that is none."""
    found_urls = {_url(one) for one in urls}
    found_pictures = {_digest(one.strip().lower(), "--sha256") for one in digests}
    for path in lists:
        more_urls, more_pictures = _of_list(path)
        found_urls |= more_urls
        found_pictures |= more_pictures
    return Asked(frozenset(found_urls), frozenset(map(_domain, domains)), frozenset(found_pictures))


def _url(text: str) -> str:
    if not text.strip():
        raise InputError("--url: is blank; give a URL as the list has it")
    return text


def _digest(text: str, where: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise InputError(f"{where}: {text[:80]!r} is no sha256, which has 64 hex digits")
    return text


def _domain(text: str) -> str:
    """A registered domain or a host. Raises InputError for what is none, and for one below which others register."""
    domain = text.strip().lower().strip(".")
    if not _DOMAIN.fullmatch(domain):
        raise InputError(f"--domain: {text!r} is no domain or host; give one as example.org, without http:// and path")
    if is_public_suffix(domain):
        raise InputError(f"--domain: {text!r} is nobody's own, others have domains below it; give one of these")
    return domain


def _of_list(path: Path) -> tuple[set[str], set[str]]:
    """URLs and digests of a list, by its columns; of a file of plain lines each line is one or the other."""
    if not path.is_file():
        raise InputError(f"--list: {path} is no file")
    if plain_suffix(path) == ".txt" or not is_list_file(path.name):
        return _of_lines(path)
    names: dict[str, str] = {}

    def check(found: Header) -> list[str]:
        for kind, known in (("url", URL_NAMES), ("picture", (DIGEST_NAME,))):
            if name := find_name(found.names, known):
                names[kind] = name
        if not names:
            raise InputError(f"{path}: has no column `url` or `sha256`; its columns are {', '.join(found.names)}")
        return [*names.values()]

    urls, pictures = set[str](), set[str]()
    for record in read_records(path, check, "a list of what is to be forgotten"):
        if record.mistake:
            raise InputError(f"{path}, {record.where}: {record.mistake}")
        cells: dict[str, Any] = {kind: record.cells.get(name) for kind, name in names.items()}
        try:
            url, digest = text_of(cells.get("url")), text_of(cells.get("picture")).strip().lower()
        except NotTextError as error:
            raise InputError(f"{path}, {record.where}: {error} where a text was expected") from error
        urls |= {url} if url.strip() else set()
        if digest and (not url.strip()):  # a list of the run's own kind says of a URL what its picture was
            pictures.add(_digest(digest, f"{path}, {record.where}"))
    return urls, pictures


def _of_lines(path: Path) -> tuple[set[str], set[str]]:
    urls, pictures = set[str](), set[str]()
    for number, line in lines_of(path):
        text = line.strip()
        if _DIGEST.fullmatch(text.lower()):
            pictures.add(text.lower())
        elif text and not (number == 1 and text.lower() in (*URL_NAMES, DIGEST_NAME)):
            urls.add(text)
    return urls, pictures
