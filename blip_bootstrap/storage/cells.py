"""A cell of a user's file as text: what is text, what is empty, and what is neither."""

from __future__ import annotations

import math
from decimal import Decimal

import pyarrow as pa


class NotTextError(ValueError):
    """A cell that no text can be made of; the message says what it is: `a list of 3`."""


def text_of(cell: object) -> str:
    """The cell as text, whitespace as it is.

    Bytes are decoded (UTF-8, what is none becomes U+FFFD), numbers are written as JSON has them, dates as ISO 8601.
    Nothing, NaN and infinities are the empty text. Lone surrogates, which JSON may hold and Arrow not, become question
    marks. Raises NotTextError for lists, mappings and booleans: their Python spelling would be trained on.
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
    """The same, every run of whitespace as one space, none at the ends."""
    return " ".join(text_of(cell).split())


def described(cell: object) -> str:
    """What a cell is, in words that stay short however large it is: `a list of 3`, `a mapping`, `true`."""
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
    """Whether the cells of an Arrow column are such that `text_of` takes."""
    if isinstance(kind, pa.BaseExtensionType):
        return is_text_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return is_text_type(kind.value_type)
    return not (pa.types.is_nested(kind) or pa.types.is_boolean(kind))
