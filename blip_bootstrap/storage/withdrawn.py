"""What was withdrawn from a run, by digests alone, and how a row looks that was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.errors import InputError, RunFailed
from blip_bootstrap.schemas.closed_lists import WITHDRAWN
from blip_bootstrap.storage.files import write_durable
from blip_bootstrap.storage.run_folder import ARTIFACTS
from blip_bootstrap.stores.store import fetched, is_there

HASHES = "withdrawn.txt"
"""Under the root: a line for each URL, `url SHA256`, and for each picture by its bytes, `picture SHA256`."""

JOURNAL = ".withdrawing.json"
"""Under the root while rows are taken out: what is to be done, by keys and digests."""


@dataclass(frozen=True)
class Withdrawn:
    """The sha256 digests of URLs and of pictures' bytes that no list brings back. A million take some 120 MB."""

    urls: frozenset[str] = field(default_factory=frozenset)
    pictures: frozenset[str] = field(default_factory=frozenset)

    def __bool__(self) -> bool:
        return bool(self.urls or self.pictures)

    def has(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of `images` was withdrawn, by its own words, its URL or its bytes."""
        if row["status"] == WITHDRAWN or row.get("sha256") in self.pictures:
            return True
        return bool(self.urls) and row["url"] is not None and digest_of_url(row["url"]) in self.urls

    def among(self, urls: Iterable[str]) -> list[bool]:
        """Of each URL whether it was withdrawn."""
        return [digest_of_url(url) in self.urls for url in urls]


def digest_of_url(url: str) -> str:
    """By what a withdrawn URL is known: the sha256 of the URL as the list has it."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()


def withdrawn_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """What stays of a row: its key."""
    return dict.fromkeys(row) | {"key": row["key"], "status": WITHDRAWN}


def withdraw(rows: pa.Table, mask: pa.Array) -> pa.Table:
    """Rows of `images` or `shard` of which those in the mask have their key alone, and the status `withdrawn`."""
    for at, column in enumerate(rows.schema):
        if column.name != "key":
            value = pa.scalar(WITHDRAWN if column.name == "status" else None, column.type)
            rows = rows.set_column(at, column, pc.if_else(mask, value, rows[column.name]))
    return rows


def read_withdrawn(root: Path) -> Withdrawn:
    """What was withdrawn from the run under `root`. Raises InputError where the file is damaged."""
    path = root / HASHES
    if not is_there(path):
        return Withdrawn()
    found: dict[str, set[str]] = {"url": set(), "picture": set()}
    for number, line in enumerate(fetched(path).read_text(encoding="utf-8").splitlines(), start=1):
        kind, _, digest = line.partition(" ")
        if kind not in found or len(digest) != 64:
            raise InputError(f"{path}, line {number}: {line[:80]!r}, where `url` or `picture` and a sha256 stand")
        found[kind].add(digest)
    return Withdrawn(frozenset(found["url"]), frozenset(found["picture"]))


def withdrawn_of(path: Path) -> Withdrawn:
    """What was withdrawn from the run in whose artifacts a file or folder lies; nothing where it lies in none."""
    above = path.absolute().parents
    root = next((one.parent for one in above if one.name == ARTIFACTS), None)
    return read_withdrawn(root) if root else Withdrawn()


def add_withdrawn(root: Path, urls: Iterable[str], pictures: Iterable[str]) -> None:
    """Keep more digests, those of before too."""
    before = read_withdrawn(root)
    told = [f"url {one}" for one in sorted(before.urls | {*urls})]
    told += [f"picture {one}" for one in sorted(before.pictures | {*pictures})]
    if told:
        write_durable(root / HASHES, "\n".join(told) + "\n")


def check_no_journal(root: Path) -> None:
    """Raise RunFailed where rows were being taken out of a run and the command was stopped."""
    if is_there(root / JOURNAL):
        raise RunFailed(f"{root}: `forget` was stopped before its end; `blip-bootstrap forget --root {root}` ends it")
