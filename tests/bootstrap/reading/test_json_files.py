"""Objects of JSON lines, arrays and pretty-printed files; a line that is none is data, and ends nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.header import Header
from blip_bootstrap.reading.json_files import objects_of, parse_json, parse_object
from blip_bootstrap.reading.records import read_records

ROWS = [{"url": f"http://a/{i}", "caption": "a\u2028b\u0085c\u2029" * (i % 7), "more": {"x": [i]}} for i in range(3000)]


def written(how: str) -> str:
    texts = [json.dumps(row, ensure_ascii=False, indent=1 if "indent" in how else None) for row in ROWS]
    return f"[{','.join(texts)}]" if "array" in how else "\n".join(texts)


@pytest.mark.parametrize("how", ["lines", "array", "array indent", "indent"])
def test_every_way_to_write_them(tmp_path: Path, how: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(written(how), encoding="utf-8")
    found: list[tuple[int, Any]] = list(objects_of(path))
    assert [value for _, value in found] == ROWS
    starts = [number for number, line in enumerate(written(how).split("\n"), start=1) if '"url"' in line]
    if how == "array":
        assert [number for number, _ in found] == [1] * 3000
    if how in ("lines", "indent"):
        assert [number + (how == "indent") for number, _ in found] == starts


@pytest.mark.parametrize("bad", ["not json", "[1]", "[" * 100_000, '{"a":' * 100_000, "1" * 5000, "null", '{"a": 1'])
def test_a_line_that_is_no_object_is_none(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "list.jsonl"
    good = '{"url": "http://a/1"}'
    for lines in ([good, bad, good], [bad, good, good]):
        path.write_text("\n".join(lines))
        found: list[tuple[int, Any]] = list(objects_of(path))
        assert [number for number, _ in found] == [1, 2, 3]
        assert [value is None for _, value in found] == [line == bad for line in lines]


def test_an_array_that_breaks_off_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    for text in (json.dumps(ROWS[:3], indent=1)[:-30], '[{"a": 1},\n\n' + "[" * 100_000):
        path.write_text(text)
        with pytest.raises(InputError, match=r"list\.json: line \d+: the JSON breaks off here \("):
            list(objects_of(path))


def test_entries_that_are_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('[{"a": 1}, 5,\n "x", {"a": 2}]')
    assert [value for _, value in objects_of(path)] == [{"a": 1}, None, None, {"a": 2}]


def test_parsing() -> None:
    assert parse_object('{"a": NaN}') is not None
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json("[" * 100_000)


def test_columns_are_those_of_the_first_records(tmp_path: Path) -> None:
    seen: list[Header] = []

    def check(found: Header) -> list[str]:
        seen.append(found)
        return []

    path = tmp_path / "list.jsonl"
    path.write_text('{"url": "a", "tags": ["x"]}\nnonsense\n{"caption": "b", "tags": []}\n')
    records = list(read_records(path, check, "a list"))
    assert [(record.where, record.mistake) for record in records] == [
        ("line 1", None), ("line 2", "line 2 is not a JSON object"), ("line 3", None),
    ]  # fmt: skip
    assert (seen[0].names, seen[0].kinds) == (["url", "tags", "caption"], {"tags": "lists"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense\nmore\n", "line 1 is not a JSON object, nor is any of the 2 read first"),
        ('{"info": {}, "annotations": [{"caption": "x"}]}', "its records seem to be its list 'annotations'"),
    ],
)
def test_files_that_hold_no_records(tmp_path: Path, text: str, said: str) -> None:
    def check(found: Header) -> list[str]:
        found.require({"url_column": "url"})
        return ["url"]

    (tmp_path / "list.json").write_text(text)
    with pytest.raises(InputError, match=said):
        list(read_records(tmp_path / "list.json", check, "a list"))


@pytest.mark.parametrize("text", ['{"a": %s}\n{"a": 2}\n', '[{"a": %s},\n{"a": 2}]'])
def test_a_number_of_more_digits_than_python_reads_stays_as_it_is_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text % ("9" * 5_000), encoding="utf-8")
    assert [cells for _, cells in objects_of(path)] == [{"a": "9" * 5_000}, {"a": 2}]
