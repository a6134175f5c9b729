from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.config import UrlList
from blip_bootstrap.errors import InputError
from blip_bootstrap.tables import read_parquet
from blip_pipelines.url_lists import write_shards

ROWS = [
    ("http://a/1.jpg", 'a "dog", red'),
    ("http://a/2.jpg", "Grüße\u2028 from 東京"),
    ("http://a/3.jpg", ""),
]


def write_list(path: Path, rows: list[tuple[str, str]], columns: tuple[str, str] = ("url", "caption")) -> Path:
    """The rows in the format of the path's ending."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        if path.suffix == ".tsv":
            stream.writelines("\t".join(row) + "\n" for row in [columns, *rows])
        elif path.suffix == ".csv":
            csv.writer(stream).writerows([columns, *rows])
        elif path.suffix == ".jsonl":
            stream.writelines(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))), path)
    return path


def shards(folder: Path, *lists: UrlList, rows_per_shard: int = 100, limit: int | None = None) -> list[dict[str, Any]]:
    folder.mkdir()
    paths = write_shards(lists, folder, rows_per_shard, limit)
    return [row for path in paths for row in read_parquet(path).to_pylist()]


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_formats_give_the_same_rows(tmp_path: Path, ending: str) -> None:
    path = write_list(tmp_path / f"web{ending}", ROWS)
    rows = shards(tmp_path / "out", UrlList(path=path))
    assert [(row["url"], row["caption"]) for row in rows] == ROWS
    assert [row["key"] for row in rows] == ["0000000000", "0000000001", "0000000002"]
    assert {row["dataset"] for row in rows} == {"web"}
    assert all(row["status"] is None and len(row["uid"]) == 32 for row in rows)


def test_keys_run_on_over_lists_and_uids_do_not_depend_on_the_place(tmp_path: Path) -> None:
    a = UrlList(path=write_list(tmp_path / "a.tsv", [(f"http://a/{i}", "x") for i in range(5)]))
    b = UrlList(path=write_list(tmp_path / "b.csv", [(f"http://b/{i}", "x") for i in range(5)]), dataset="other")
    rows = shards(tmp_path / "ab", a, b, rows_per_shard=3)
    assert [row["key"] for row in rows] == [f"{i // 3:05d}{i % 3:05d}" for i in range(10)]
    assert [row["dataset"] for row in rows] == ["a"] * 5 + ["other"] * 5
    swapped = shards(tmp_path / "ba", b, a, rows_per_shard=4)
    assert {row["url"]: row["uid"] for row in rows} == {row["url"]: row["uid"] for row in swapped}


def test_blank_and_repeated_rows_stay_as_rejected_ones(tmp_path: Path) -> None:
    listed = [("http://a/1", "x"), (" ", "x"), ("http://a/1", "y"), ("http://a/1", "x"), ("", "")]
    rows = shards(tmp_path / "out", UrlList(path=write_list(tmp_path / "web.tsv", listed)))
    assert [row["error_class"] for row in rows] == [None, "blank_url", None, "duplicate_row", "blank_url"]
    assert [row["status"] for row in rows] == [None, "rejected", None, "rejected", "rejected"]


def test_lines_that_are_no_record_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "web.jsonl"
    path.write_text('{"url": "http://a/1", "caption": "x"}\nnot json\n\n[1]\n{"url": null, "caption": 5}\n')
    rows = shards(tmp_path / "out", UrlList(path=path))
    assert [row["error_class"] for row in rows] == [None, "other", "other", "blank_url"]
    assert rows[1]["error_message"] == "line 2 is not a JSON object"
    assert rows[3]["caption"] == "5"


def test_short_long_and_quoted_lines(tmp_path: Path) -> None:
    path = tmp_path / "web.tsv"
    path.write_text(
        'caption\turl\n"He said ""hi"""\thttp://a/1\n"lone quote\thttp://a/2\nno url\nx\thttp://a/3\tmore\n\n'
    )
    rows = shards(tmp_path / "out", UrlList(path=path))
    assert [row["caption"] for row in rows] == ['He said "hi"', '"lone quote', "no url", "x"]
    assert [row["url"] for row in rows] == ["http://a/1", "http://a/2", "", "http://a/3"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "web.csv"
    path.write_text("url,caption\r\nhttp://a/1,Grüße\r\n", encoding=encoding)
    assert shards(tmp_path / "out", UrlList(path=path))[0]["caption"] == "Grüße"


def test_bytes_of_another_encoding_do_not_lose_the_row(tmp_path: Path) -> None:
    path = tmp_path / "web.tsv"
    path.write_bytes("url\tcaption\nhttp://a/1\tcafé\n".encode("latin-1"))
    assert shards(tmp_path / "out", UrlList(path=path))[0]["caption"] == "caf\ufffd"


def test_limit_prefix_and_serve(tmp_path: Path) -> None:
    path = write_list(tmp_path / "web.tsv", [("a b#.jpg", "x"), ("", "y"), ("c.jpg", "z")])
    prefixed = shards(tmp_path / "1", UrlList(path=path, url_prefix="http://h/"), limit=2)
    assert [row["url"] for row in prefixed] == ["http://h/a%20b%23.jpg", ""]
    served = shards(tmp_path / "2", UrlList(path=path, serve=tmp_path, serve_port=8123))
    assert [row["url"] for row in served] == ["http://127.0.0.1:8123/a%20b%23.jpg", "", "http://127.0.0.1:8123/c.jpg"]


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_a_missing_column_names_those_that_are_there(tmp_path: Path, ending: str) -> None:
    path = write_list(tmp_path / f"web{ending}", ROWS, columns=("image_url", "text"))
    with pytest.raises(InputError, match=r"no column 'url'; its columns are: image_url, text; did you mean image_url"):
        shards(tmp_path / "out", UrlList(path=path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("web.xls", b"", "ends in one of .tsv .csv .txt .jsonl .ndjson .json .parquet, not '.xls'"),
        ("web.parquet", b"PAR1 nonsense", "not a readable Parquet file"),
        ("web.tsv", b"", "no column 'url'; its columns are: none"),
    ],
)
def test_files_that_are_no_list(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        shards(tmp_path / "out", UrlList(path=tmp_path / name))


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"web\.tsv: cannot be read \(No such file"):
        shards(tmp_path / "out", UrlList(path=tmp_path / "web.tsv"))
