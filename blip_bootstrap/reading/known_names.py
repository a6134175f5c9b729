"""The names that published lists have for their columns, and what is kept of the columns that have no use here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

URL_NAMES = ("url", "image_url", "img_url", "image_link")
"""LAION has URL, COYO and DataComp url; letters' case does not matter."""

TEXT_NAMES = ("caption", "text", "alt_text", "alttext", "alt", "txt")
"""LAION has TEXT, COYO and DataComp text."""

IMAGE_NAMES = (
    "image", "file_name", "filename", "image_name", "image_path", "img_path", "filepath", "image_file", "img_name",
)  # fmt: skip
"""Names for the file of a picture: BLIP's own lists have image, Hugging Face's metadata file_name."""

CAPTIONS_NAMES = (*TEXT_NAMES, "captions", "sentences", "texts", "comment", "title", "description")
"""Names for the texts of a picture that is there already, a list of them or one."""

UID_NAME, KEY_NAME, DIGEST_NAME = "uid", "key", "sha256"

_UID, _DIGEST = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{64}")


def find_name(names: Sequence[str], known: Sequence[str]) -> str | None:
    """The first of the `known` names that a list has, as the list spells it; None where it has none, or has it twice.

    Capital letters and spaces around a name do not matter.
    """
    for one in known:
        found = [name for name in names if name.strip().lower() == one]
        if len(found) == 1:
            return found[0]
    return None


def uid_of(cell: object) -> str | None:
    """A uid as DataComp writes it, 32 hex digits; None for anything else, as the number of a user."""
    text = cell.strip().lower() if isinstance(cell, str) else ""
    return text if _UID.fullmatch(text) else None


def digest_of(cell: object) -> str | None:
    """A sha256 as 64 hex digits; None for anything else."""
    text = cell.strip().lower() if isinstance(cell, str) else ""
    return text if _DIGEST.fullmatch(text) else None


def extra_of(cells: Mapping[str, Any], used: Collection[str]) -> str | None:
    """The cells of the columns that are not `used`, as a JSON object; None where there is none, or all are empty."""
    found = {name: _plain(cell) for name, cell in cells.items() if name not in used}
    found = {name: cell for name, cell in found.items() if cell not in (None, "")}
    return json.dumps(found, ensure_ascii=False).encode("utf-8", "replace").decode() if found else None


def _plain(cell: Any) -> Any:
    """A cell as JSON has it: dates as ISO 8601, decimals as numbers, bytes as text; NaN and infinities are null."""
    if isinstance(cell, Mapping):
        return {str(name): _plain(one) for name, one in cell.items()}
    if isinstance(cell, list | tuple | set):
        return [_plain(one) for one in cell]
    if isinstance(cell, Decimal):
        cell = float(cell)
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    if isinstance(cell, bytes | bytearray):
        return cell.decode("utf-8", "replace")
    if isinstance(cell, datetime | date | time):
        return cell.isoformat()
    return cell if cell is None or isinstance(cell, str | int | float) else str(cell)
