"""Cells of user files as text."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from blip_bootstrap.schemas.cells import NotTextError, described, folded_text_of, is_text_type, text_of


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("a  dog", "a  dog"),
        ("\ud800", "?"),
        ("café one".encode(), "café one"),
        (b"bad \xff byte", "bad \ufffd byte"),
        (1.5, "1.5"),
        (3, "3"),
        (10**30, "1" + "0" * 30),
        (Decimal("1.50"), "1.5"),
        (Decimal(100), "100"),
        (date(2020, 1, 2), "2020-01-02"),
        (None, ""),
        (float("nan"), ""),
        (float("-inf"), ""),
        (Decimal("NaN"), ""),
    ],
)
def test_what_a_cell_says(cell: object, text: str) -> None:
    assert text_of(cell) == text


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (["a", "b"], "a list of 2"),
        ({"en": "a"}, "a mapping"),
        (True, "true"),
        ((), "a list of 0"),
        ({1}, "a list of 1"),
    ],
)
def test_what_no_text_can_be_made_of(cell: Any, said: str) -> None:
    with pytest.raises(NotTextError, match=said):
        text_of(cell)


def test_folded_and_described() -> None:
    nested: Any = "x"
    for _ in range(5000):
        nested = [nested]
    assert folded_text_of(" a\u2028 dog\n") == "a dog"
    assert described(nested) == "a list of 1"
    assert described("x\n" * 500) == f"'{'x ' * 30}'..."
    assert (described(None), described(1.5)) == ("nothing", "'1.5'")


@pytest.mark.parametrize(
    ("kind", "is_text"),
    [
        (pa.large_string(), True),
        (pa.string_view(), True),
        (pa.binary(4), True),
        (pa.float16(), True),
        (pa.dictionary(pa.int8(), pa.string()), True),
        (pa.null(), True),
        (pa.json_(), True),
        (pa.list_(pa.string()), False),
        (pa.list_view(pa.string()), False),
        (pa.struct([("en", pa.string())]), False),
        (pa.map_(pa.string(), pa.string()), False),
        (pa.bool_(), False),
    ],
)
def test_column_types(kind: pa.DataType, is_text: bool) -> None:
    assert is_text_type(kind) == is_text


def test_decimals_keep_every_digit() -> None:
    assert text_of(Decimal("12345678901234567890123456789012.50")) == "12345678901234567890123456789012.5"
    assert [text_of(Decimal(one)) for one in ("1E+3", "0.10", "100", "0.00", "-0.50")] == [
        "1000", "0.1", "100", "0", "-0.5",
    ]  # fmt: skip
