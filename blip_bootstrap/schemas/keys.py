"""Keys of rows and names of parts: a key is the number of its part, and the row's position in it with five digits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

POSITION_DIGITS = 5

ROWS_PER_PART = 10**POSITION_DIGITS
"""The most rows of a part: a key as a number is that of its part times this, plus the row's position."""

_NAME = re.compile(r"part-([0-9]{5}|[1-9][0-9]{5,})\.parquet")

_NUMBER = re.compile(r"(?<=part-)[0-9]{5,}")

_KEY = re.compile(r"(?:[0-9]{5}|[1-9][0-9]{5,})[0-9]{5}")

_WIDE = 12


def key_of(part: int, position: int) -> str:
    """The key of the row at a position in a part: at least ten digits, more from part 100,000 on."""
    return f"{part:05d}{position:05d}"


def key_of_id(number: int) -> str:
    """The key that is this as a number."""
    return f"{number:010d}"


def keys_of(part: int, positions: Iterable[int]) -> list[str]:
    """The keys of rows of one part."""
    start = f"{part:05d}"
    return [start + f"{position:05d}" for position in positions]


def is_key(text: str) -> bool:
    """Whether a text could be a key of a run's pictures."""
    return _KEY.fullmatch(text) is not None


def part_of(key: str) -> int:
    """The number of the part that the row with this key is in."""
    return int(key[:-POSITION_DIGITS])


def part_name(number: int) -> str:
    """The file name of the part with this number: `part-00003.parquet`, `part-100000.parquet`."""
    return f"part-{number:05d}.parquet"


def is_part(name: str) -> bool:
    """Whether a file name is one of a part."""
    return _NAME.fullmatch(name) is not None


def number_of(part: str) -> int:
    """The number of the part with this file name."""
    return int(part.removeprefix("part-").partition(".")[0])


def by_number(path: str | PurePath) -> tuple[str, ...]:
    """To sort names or paths by: as Python would, but parts by their numbers, also those with more than five digits."""
    return tuple(_NUMBER.sub(_widened, one) for one in str(path).split("/"))


def _widened(match: re.Match[str]) -> str:
    return match[0].zfill(_WIDE)
