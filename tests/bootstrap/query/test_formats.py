"""Values as people read them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from blip_bootstrap.query.formats import shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"time": datetime(2026, 11, 29, 7, 10), "status": "success", "said": None, "n": 1200},
         "{time: 2026-11-29 07:10:00, status: success, said: null, n: 1,200}"),
        ([{"a": 0.123456}, {"a": b"xy", "b": ""}], "{a: 0.1235}, {a: <2 bytes>, b: }"),
        ([("siglip2", 0.123456), ("qwen", None)], "siglip2: 0.1235, qwen: null"),
        ({"bell\x07": {"deep": True}}, "{bell\\x07: {deep: true}}"),
    ],
)  # fmt: skip
def test_structs_and_maps_are_shown_in_no_language_s_own_spelling(value: Any, text: str) -> None:
    assert shown(value) == text
