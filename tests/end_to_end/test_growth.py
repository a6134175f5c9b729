"""A run of the real steps grows: what each command fetches and makes anew."""

from __future__ import annotations

from pathlib import Path

from tests.bench.growth import TABLES, rows


def test_each_command_makes_its_own_parts_alone(tmp_path: Path) -> None:
    found = {row["command"]: row for row in rows(tmp_path, 40, 10, 4, "caption.references=0")}
    told = {name: (row["fetched"], *(row[table]["made"] for table in TABLES)) for name, row in found.items()}
    assert told == {
        "first run": (40, 4, 4, 4),
        "again": (0, 0, 0, 0),
        "a list of 10 added": (10, 1, 1, 1),
        "4 rows retried": (4, 1, 1, 1),
        "a part of images damaged": (10, 1, 0, 0),
        "a part of captions damaged": (0, 0, 1, 0),
        "the first list alone": (0, 0, 0, 0),
    }
    assert [row["images"]["as_they_are"] for row in found.values()] == [0, 4, 4, 5, 5, 6, 4]
