"""Compares what was fetched with the digest that its list gives: sha256, as DataComp's lists have it, or md5."""

from __future__ import annotations

import hashlib
import json
import re

DIGESTS = {"sha256": re.compile(r"[0-9a-f]{64}"), "md5": re.compile(r"[0-9a-f]{32}")}
"""Columns of lists that are digests, by their names in any letters, and what a digest is; other cells are none."""


def wrong_digest(body: bytes, sha256: str, extra: str | None) -> str | None:
    """What is wrong with a body by the digests in `extra`, the JSON of a row's other columns; None where nothing is.

    `sha256` is that of the body, in hex digits.
    """
    for name, said in _given(extra).items():
        found = sha256 if name == "sha256" else hashlib.md5(body, usedforsecurity=False).hexdigest()
        if found != said:
            return f"the list gives {name} {said}, {len(body):,} bytes with {found} were sent"
    return None


def _given(extra: str | None) -> dict[str, str]:
    """The digests that a row of a list gives."""
    if not extra or not any(name in extra.lower() for name in DIGESTS):  # most lists have none, and JSON takes time
        return {}
    cells = {name.strip().lower(): cell for name, cell in json.loads(extra).items() if isinstance(cell, str)}
    told = {name: cells[name].strip().lower() for name in DIGESTS if name in cells}
    return {name: digest for name, digest in told.items() if DIGESTS[name].fullmatch(digest)}
