"""CSV and TSV: legal quotes are read as any reader does, those without an end take no other line in."""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from pathlib import Path

import pytest

from blip_bootstrap.reading.delimited import MOST_LINES, records_of, split_fields
from blip_bootstrap.reading.header import Header
from blip_bootstrap.reading.records import read_records


def check(found: Header) -> list[str]:
    found.require({"url_column": "url", "caption_column": "caption"})
    return ["url", "caption"]


def rows(path: Path, text: str) -> list[tuple[str, str, bool]]:
    path.write_text(text, encoding="utf-8", newline="")
    read = read_records(path, check, "a list")
    return [(one.cells.get("url", ""), one.cells.get("caption", ""), one.has_lone_quote) for one in read]


@pytest.mark.parametrize(
    "order", [("url", "caption"), ("caption", "url"), ("size", "caption", "url"), ("url", "caption", "w")]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_a_csv_writer_has_written(tmp_path: Path, order: tuple[str, ...], end: str) -> None:
    rng = random.Random(f"{order}{end}")
    parts = ["a dog", ",", '"', '""', "\n", " ", '30" tv', "x.com", "end of it.", ";", "\t"]
    texts = ["".join(rng.choices(parts, k=rng.randint(0, 6))).strip(" ") for _ in range(400)]
    listed = [{"url": f"http://a/{i}.jpg", "caption": text, "size": "3", "w": "4"} for i, text in enumerate(texts)]
    written = io.StringIO()
    writer = csv.DictWriter(written, order, lineterminator=end, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(listed)
    read = rows(tmp_path / "list.csv", written.getvalue())
    assert [(url, text) for url, text, _ in read] == [(one["url"], one["caption"]) for one in listed]
    assert not any(lone for _, _, lone in read)


@pytest.mark.parametrize(
    ("name", "text", "captions", "lone"),
    [
        ("a.csv", 'url,caption\nh://a/1,x\nh://a/2,"30 inch, black\nh://a/3,y\n', ["x", '"30 inch, black', "y"], [1]),
        ("b.csv", 'url,caption\nh://a/1,"30 inch\nh://a/2,"a, b"\n', ['"30 inch', "a, b"], [0]),
        ("c.csv", 'caption,url\n"30 inch tv,h://a/1\na cat,h://a/2\n"a, b",h://a/3\n',
         ['"30 inch tv', "a cat", "a, b"], [0]),
        ("d.csv", 'url,caption\nh://a/1,"open at the end', ['"open at the end'], [0]),
        ("e.csv", 'url,caption\n1.jpg,"30 inch\nmy pic 2.jpg,y\n3.jpg,"z"\n', ['"30 inch', "y", "z"], [0]),
        ("f.csv", 'url,caption\nh://a/1,"A dog.\nSee shop.com, now"\nh://a/2,y\n',
         ["A dog.\nSee shop.com, now", "y"], []),
        ("g.tsv", 'url\tcaption\nh://a/1\t"two\nlines"\nh://a/2\t"30 in\nh://a/3\ty\n',
         ["two\nlines", '"30 in', "y"], [1]),
        ("h.csv", 'url,caption\nh://a/1,"a ""q"" b"\nh://a/2,"30" tv, black"\n', ['a "q" b', '30" tv, black'], []),
        ("i.csv", "url,caption\nh://a/1,a red, big dog\n\n\nh://a/2,y\n", ["a red, big dog", "y"], []),
        ("j.csv", "url;caption\nh://a/1;a red, big dog\n", ["a red, big dog"], []),
        ("k.tsv", "url,caption\nh://a/1,x\n", ["x"], []),
    ],
)  # fmt: skip
def test_lines_and_records_agree(tmp_path: Path, name: str, text: str, captions: list[str], lone: list[int]) -> None:
    read = rows(tmp_path / name, text)
    assert [caption for _, caption, _ in read] == captions
    assert [place for place, (_, _, is_lone) in enumerate(read) if is_lone] == lone


def test_a_quote_is_looked_for_over_some_lines_only(tmp_path: Path) -> None:
    def text(lines: int) -> str:
        return 'url,caption\nh://a/1,"' + "x\n" * lines + 'end"\nh://a/2,y\n'

    assert len(rows(tmp_path / "a.csv", text(MOST_LINES - 1))) == 2
    assert len(rows(tmp_path / "b.csv", text(MOST_LINES + 1))) > 2


def test_many_quotes_in_a_line_are_each_looked_at_once() -> None:
    """An end looked for anew at each of them would take an hour."""
    fields, is_open = split_fields('"x,' * 300_000, ",")
    assert (len(fields), is_open) == (300_001, True)


@pytest.mark.parametrize("line", ['"x', '"x" y', 'b" c, "d'])
def test_lines_that_end_no_field_are_each_looked_at_once(line: str) -> None:
    """Two hundred looks at each of them made a list of a million lines take half an hour."""
    looked = Counter[str]()

    def is_record(fields: list[str]) -> bool:
        looked[fields[0]] += 1
        return False

    lines = ((number, f"{line}{number}") for number in range(2_000))
    assert len(list(records_of(lines, ",", is_record))) == 2_000
    assert sum(looked.values()) <= 3 * 2_000


def test_a_field_that_is_closed_and_opened_on_each_line_has_an_end() -> None:
    lines = [(0, 'h://a/1,"a'), *((number, 'b","d') for number in range(1, 5 * MOST_LINES))]
    longest = max(len("".join(fields)) for _, fields, _ in records_of(iter(lines), ",", lambda fields: False))
    assert longest < 10 * MOST_LINES
