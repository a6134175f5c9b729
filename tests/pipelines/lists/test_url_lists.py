"""URL lists of every format and place: their rows, keys and uids, and what no reader takes."""

from __future__ import annotations

import gzip
from pathlib import Path
from urllib.parse import unquote

import pytest

from blip_bootstrap.config import UrlList
from blip_bootstrap.errors import InputError
from blip_pipelines.lists import known
from tests.pipelines.lists.written_lists import ROWS, URLS, shards, texts, write_list
from tests.support.moto_store import Bucket, environment, moto_server


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


@pytest.mark.parametrize("ending", [".tsv", ".parquet"])
def test_a_url_with_another_text_names_the_first_row_that_has_it(tmp_path: Path, ending: str) -> None:
    listed = [("http://a/1", "x"), ("http://a/2", "x"), ("http://a/1", "y"), ("http://a/1", "x"), ("http://a/1", "z")]
    listed += [(" ", "x"), (" ", "y"), ("http://a/2", "y"), ("http://a/3", "y")]
    first, *others = [UrlList(path=write_list(tmp_path / f"{at}{ending}", listed[at : at + 3])) for at in (0, 3, 6)]
    rows = shards(tmp_path / "out", first, *others, rows_per_shard=2)
    keys = [row["key"] for row in rows]
    assert [row["same_as"] for row in rows] == [None, None, keys[0], None, keys[0], None, None, keys[1], None]
    told = [row["error_class"] for row in rows]
    assert told == [None, None, None, "duplicate_row", None, "blank_url", "blank_url", None, None]


def test_repeated_rows_are_found_over_slices_of_the_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(known, "ROWS_PER_FILE", 5)
    listed = [(f"http://a/{at * at % 17}", f"text {at % 3}") for at in range(60)]
    rows = shards(tmp_path / "out", UrlList(path=write_list(tmp_path / "web.parquet", listed)), rows_per_shard=4)
    for at, row in enumerate(rows):
        assert (row["error_class"] == "duplicate_row") == (listed[at] in listed[:at])
        first = [url for url, _ in listed].index(row["url"])
        is_other_text = first < at and row["error_class"] is None
        assert row["same_as"] == (rows[first]["key"] if is_other_text else None)


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


def test_many_files_are_one_list_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "lists"
    folder.mkdir(parents=True)
    for number in (10, 2, 1):
        write_list(folder / f"part{number}.tsv", [(f"http://a/{number}", "x")])
    (folder / "_SUCCESS").write_text("")
    urls = [f"http://a/{number}" for number in (1, 2, 10)]
    for at, path in enumerate((folder, folder / "*.tsv", tmp_path / "in" / "**" / "part*")):
        rows = shards(tmp_path / f"out{at}", UrlList(path=path))
        assert ([row["url"] for row in rows], rows[0]["dataset"]) == (urls, "lists" if at < 2 else "in")
    with pytest.raises(InputError, match=r"lists/\*.csv: no file has a name like this"):
        shards(tmp_path / "none", UrlList(path=folder / "*.csv"))


def test_lists_on_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server() as endpoint:
        for name, value in environment(endpoint, tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        bucket = Bucket(endpoint)
        bucket["lists/2.tsv"] = b"url\tcaption\nhttp://a/2\ty\n"
        bucket["lists/1.tsv.gz"] = gzip.compress(b"url\tcaption\nhttp://a/1\tx\n")
        rows = shards(tmp_path / "1", UrlList.model_validate({"path": "s3://bucket/lists/*"}))
        assert [(row["url"], row["dataset"]) for row in rows] == [(url, "lists") for url in URLS]
        bucket["lists/2.tsv"] = b"url\tcaption\nhttp://a/new\ty\n"
        (row,) = shards(tmp_path / "2", UrlList.model_validate({"path": "s3://bucket/lists/2.tsv"}))
        assert (row["url"], row["dataset"]) == ("http://a/new", "2")
        with pytest.raises(InputError, match=r"s3://bucket/lists/3.tsv: no such file"):
            shards(tmp_path / "3", UrlList.model_validate({"path": "s3://bucket/lists/3.tsv"}))


def test_quotes_without_an_end_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "web.csv"
    path.write_text('url,caption\nhttp://a/1,x\nhttp://a/2,"30 inch, black\nhttp://a/3,"17 inch\n')
    assert [text for text, _ in texts(tmp_path / "out", UrlList(path=path))] == ["x", '"30 inch, black', '"17 inch']
    assert "web.csv: rows with a quote that has no end: 2 (the first: line 3)" in capsys.readouterr().err


def test_names_are_quoted_behind_a_prefix_as_they_are_when_served(tmp_path: Path) -> None:
    names = ["a#b.jpg", "a?b.jpg", "50%25.jpg", "100% wool.jpg", "café/ネコ.jpg", "a+b&c.jpg", "x/y.jpg", "a;b=c.jpg"]
    path = write_list(tmp_path / "web.tsv", [(name, "x") for name in names])
    served = shards(tmp_path / "1", UrlList(path=path, serve=tmp_path, serve_port=8123))
    for at, prefix in enumerate(("http://h/", "http://h/get?file=")):
        rows = shards(tmp_path / f"{at}p", UrlList(path=path, url_prefix=prefix))
        quoted = [row["url"].removeprefix(prefix) for row in rows]
        assert quoted == [row["url"].removeprefix("http://127.0.0.1:8123/") for row in served]
        assert [unquote(name) for name in quoted] == names
        assert not any(sign in name for name in quoted for sign in "#?&+ ")


CASES = "cases"


def test_lists_as_people_have_them(real_data: Path, tmp_path: Path) -> None:
    """Files of public reports; the number of their rows, or what is said."""
    folder = real_data.parent / CASES
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    for name, rows in {
        "csv-open-quote/quote.csv": 4, "list-mistakes/array.jsonl": 4, "list-mistakes/cr.tsv": 2,
        "list-mistakes/first_missing.jsonl": 2, "list-mistakes/gzinside.tsv": 1, "list-mistakes/pretty.jsonl": 4,
        "list-mistakes/urlonly.tsv": 1, "list-mistakes/laion.parquet": 4,
        "cells-that-are-no-text/bin.parquet": 4, "cells-that-are-no-text/nan.jsonl": 4,
    }.items():  # fmt: skip
        assert len(shards(tmp_path / name.replace("/", "-"), UrlList(path=folder / name))) == rows, name
    for name, said in {
        "cells-that-are-no-text/listcap.parquet": "caption_lists: true",
        "parquet-same-column-twice/dup_columns.parquet": "there twice",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=said):
            shards(tmp_path / name.replace("/", "-"), UrlList(path=folder / name))
