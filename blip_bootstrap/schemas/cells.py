"""Cells of users' files as text: which values have a text, which are empty, and which are refused."""

from __future__ import annotations

import math
from decimal import Decimal

import pyarrow as pa


class NotTextError(ValueError):
    """A cell has no text; the message says what it is: `a list of 3`."""


def text_of(cell: object) -> str:
    """The text of a cell, its whitespace unchanged.

    Bytes are decoded as UTF-8, invalid ones as U+FFFD; numbers are written as in JSON, dates as in ISO 8601. None, NaN
    and infinities are the empty text. Lone surrogates, which JSON can hold and Arrow cannot, become question marks.
    Raises NotTextError for lists, mappings and booleans, whose Python spelling would be trained on.
    """
    if cell is None or (isinstance(cell, (float, Decimal)) and not math.isfinite(cell)):
        return ""
    if isinstance(cell, str):
        return cell.encode("utf-8", "replace").decode("utf-8")
    if isinstance(cell, (bytes, bytearray)):
        return cell.decode("utf-8", "replace")
    if isinstance(cell, (bool, list, tuple, dict, set)):
        raise NotTextError(described(cell))
    if isinstance(cell, Decimal):
        digits = f"{cell:f}"  # normalize() would round to the context's 28 digits
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    return str(cell)


def folded_text_of(cell: object) -> str:
    """The text of a cell (`text_of`) with every run of whitespace made one space, and none at the ends."""
    return " ".join(text_of(cell).split())


def described(cell: object) -> str:
    """A few words for a cell of any size: `a list of 3`, `a mapping`, `true`, or its first 60 characters."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, dict):
        return "a mapping"
    if isinstance(cell, (list, tuple, set)):
        return f"a list of {len(cell)}"
    if cell is None:
        return "nothing"
    shown = " ".join(str(cell).split())
    return f"{shown[:60]!r}" + ("..." if len(shown) > 60 else "")


def is_text_type(kind: pa.DataType) -> bool:
    """Whether `text_of` takes the cells of an Arrow column of this type."""
    if isinstance(kind, pa.BaseExtensionType):
        return is_text_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return is_text_type(kind.value_type)
    return not (pa.types.is_nested(kind) or pa.types.is_boolean(kind))
