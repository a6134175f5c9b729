from __future__ import annotations

import csv
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.config import UrlList
from blip_bootstrap.errors import InputError
from blip_bootstrap.storage.parquet import read_parquet
from blip_pipelines.lists import known
from blip_pipelines.lists.shards import write_shards
from tests.support.moto_store import Bucket, environment, moto_server

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


def test_texts_of_a_parquet_file_that_are_no_utf8_do_not_lose_the_row(tmp_path: Path) -> None:
    texts = _raw([b"gr\xfcn", b"red", b""])
    pq.write_table(pa.table({"url": ["http://a/1", None, "http://a/3"], "caption": texts}), tmp_path / "web.parquet")
    rows = shards(tmp_path / "out", UrlList(path=tmp_path / "web.parquet"))
    assert [row["caption"] for row in rows] == ["gr\ufffdn", "red", ""]
    assert [row["error_class"] for row in rows] == [None, "blank_url", None]


def _raw(texts: list[bytes]) -> pa.Array:
    """Texts as a writer left them that did not check them."""
    raw = pa.array(texts, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


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
    path = write_list(tmp_path / f"web{ending}", ROWS, columns=("src", "title"))
    with pytest.raises(InputError, match=r"no column 'url'; its columns are: src, title; did you mean src"):
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


def write_parquet_list(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def texts(folder: Path, urls: UrlList) -> list[tuple[str, str]]:
    return [(row["caption"], row["error_message"] or "") for row in shards(folder, urls)]


URLS = ["http://a/1", "http://a/2"]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (pa.array([b"caf\xc3\xa9", b"bad \xff"]), ["café", "bad \ufffd"]),
        (pa.array([1.5, float("nan")]), ["1.5", ""]),
        (pa.array([1.1, None], pa.float32()), ["1.1", ""]),
        (pa.array([3, None]), ["3", ""]),
        (pa.nulls(2), ["", ""]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array(["x", "y"], pa.large_string()), ["x", "y"]),
    ],
)
def test_parquet_cells_are_texts(tmp_path: Path, cells: pa.Array, said: list[str]) -> None:
    path = write_parquet_list(tmp_path / "web.parquet", url=pa.array([url.encode() for url in URLS]), caption=cells)
    rows = shards(tmp_path / "out", UrlList(path=path))
    assert [(row["url"], row["caption"]) for row in rows] == list(zip(URLS, said, strict=True))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"caption": [["a", "b"], ["c"]]},
            "caption_column 'caption' holds list<.*one text a row, or caption_lists: true",
        ),
        ({"caption": [{"en": "a"}, {"en": "b"}]}, "caption_column 'caption' holds struct<.*; one text a row$"),
        ({"caption": [True, False]}, "caption_column 'caption' holds bool"),
        ({"url": [["a"], ["b"]]}, "url_column 'url' holds list<.*one URL a row"),
    ],
)
def test_columns_of_lists_and_the_like_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    path = write_parquet_list(tmp_path / "web.parquet", **({"url": URLS, "caption": ["x", "y"]} | columns))
    with pytest.raises(InputError, match=message) as caught:
        shards(tmp_path / "out", UrlList(path=path))
    assert "\n" not in str(caught.value)


def test_each_text_of_a_list_is_a_row_where_that_is_asked_for(tmp_path: Path) -> None:
    path = write_parquet_list(tmp_path / "web.parquet", url=[*URLS, "http://a/3"], caption=[["a", "b"], [], None])
    rows = shards(tmp_path / "out", UrlList(path=path, caption_lists=True))
    assert [(row["url"][-1], row["caption"]) for row in rows] == [("1", "a"), ("1", "b"), ("2", ""), ("3", "")]
    lines = tmp_path / "web.jsonl"
    lines.write_text('{"url": "http://a/1", "caption": ["a", 2.5]}\n{"url": "http://a/2", "caption": "c"}\n')
    assert [text for text, _ in texts(tmp_path / "2", UrlList(path=lines, caption_lists=True))] == ["a", "2.5", "c"]


def test_json_cells_that_are_no_text_are_rows_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "web.jsonl"
    cells = ["NaN", "null", '["a", "b"]', '{"en": "a"}', "true", "1.5", "3", '"\\ud800"']
    path.write_text("".join(f'{{"url": "http://a/{i}", "caption": {cell}}}\n' for i, cell in enumerate(cells, 1)))
    assert texts(tmp_path / "out", UrlList(path=path)) == [
        ("", ""), ("", ""), ("", "line 3: a list of 2 where a text was expected"),
        ("", "line 4: a mapping where a text was expected"), ("", "line 5: true where a text was expected"),
        ("1.5", ""), ("3", ""), ("?", ""),
    ]  # fmt: skip
    path.write_text('{"url": "a", "caption": ["x"]}\n{"url": "b", "caption": []}\n')
    with pytest.raises(InputError, match=r"holds lists, texts were expected.*caption_lists"):
        shards(tmp_path / "2", UrlList(path=path))


def test_a_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    same = pa.Table.from_arrays([pa.array(URLS)] * 3, names=["url", "caption", "caption"])
    pq.write_table(same, tmp_path / "web.parquet")
    (tmp_path / "web.csv").write_text("url,caption,caption\na,b,c\n")
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match="the column 'caption' is there twice; rename or leave out"):
            shards(tmp_path / f"out-{path.name}", UrlList(path=path))
    pq.write_table(
        pa.Table.from_arrays([pa.array(URLS)] * 4, names=["url", "caption", "w", "w"]), tmp_path / "w.parquet"
    )
    assert len(shards(tmp_path / "3", UrlList(path=tmp_path / "w.parquet"))) == 2


def test_names_of_other_lists_are_suggested(tmp_path: Path) -> None:
    path = write_parquet_list(tmp_path / "web.parquet", id=[1, 2], Link=URLS, Title=["a", "b"])
    with pytest.raises(InputError, match=r"did you mean Link\? Set url_column: Link, caption_column: Title$"):
        shards(tmp_path / "1", UrlList(path=path))
    with pytest.raises(
        InputError, match=r"no column 'caption'.*caption_column: Title; caption_column: null where it has no"
    ):
        shards(tmp_path / "2", UrlList(path=path, url_column="Link"))
    assert len(shards(tmp_path / "3", UrlList(path=path, url_column="Link", caption_column="Title"))) == 2


UID = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("columns", "uids", "extra"),
    [
        ({"SAMPLE_ID": [7, None], "URL": URLS, "TEXT": ["a", "b"], "NSFW": ["UNLIKELY", ""],
          "similarity": [0.5, float("nan")]},
         None, [{"SAMPLE_ID": 7, "NSFW": "UNLIKELY", "similarity": 0.5}, None]),  # LAION
        ({"id": [1, 2], "url": URLS, "text": ["a", "b"], "clip_similarity_vitb32": [0.25, 0.5]},
         None, [{"id": 1, "clip_similarity_vitb32": 0.25}, {"id": 2, "clip_similarity_vitb32": 0.5}]),  # COYO
        ({"uid": [UID, UID[::-1]], "url": URLS, "text": ["a", "b"], "sha256": ["ab" * 32] * 2,
          "face_bboxes": [[[0.5]], []]},
         [UID, UID[::-1]], [{"sha256": "ab" * 32, "face_bboxes": [[0.5]]}, {"sha256": "ab" * 32, "face_bboxes": []}]),
        ({"uid": ["1", "1"], "url": URLS, "caption": ["a", "b"]}, None, [{"uid": "1"}, {"uid": "1"}]),  # of a user
        ({"uid": [UID, UID], "url": URLS, "caption": ["a", "b"]}, [UID, None], [None, None]),  # not unique
        ({"uid": [f"{i:032x}" for i in (1, 2)], "url": URLS, "caption": ["a", "b"]}, [f"{i:032x}" for i in (1, 2)],
         [None, None]),  # alike in their first half
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_published_lists_are_recognised_and_their_other_columns_carried(
    tmp_path: Path, columns: dict[str, list[Any]], uids: list[str | None] | None, extra: list[Any], ending: str
) -> None:
    path = tmp_path / f"web.{ending}"
    if ending == "parquet":
        write_parquet_list(path, **columns)
    else:
        records = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    rows = shards(tmp_path / "out", UrlList(path=path))
    assert [(row["url"], row["caption"], row["status"]) for row in rows] == [
        (URLS[0], "a", None),
        (URLS[1], "b", None),
    ]
    assert [row["extra"] and json.loads(row["extra"]) for row in rows] == extra
    for row, uid in zip(rows, uids or [None, None], strict=True):
        assert row["uid"] == (uid or hashlib.sha256(f"{row['url']}\n{row['caption']}".encode()).hexdigest()[:32])


def test_settings_overrule_the_names_that_are_recognised(tmp_path: Path) -> None:
    path = write_parquet_list(tmp_path / "web.parquet", URL=URLS, TEXT=["a", "b"], alt=["c", "d"], thumb=["x", "y"])
    rows = shards(tmp_path / "1", UrlList(path=path, url_column="thumb", caption_column="alt"))
    assert [(row["url"], row["caption"]) for row in rows] == [("x", "c"), ("y", "d")]
    with pytest.raises(InputError, match="no column 'none'"):
        shards(tmp_path / "2", UrlList(path=path, url_column="none"))


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


@pytest.mark.parametrize(
    ("name", "content", "settings"),
    [
        ("a.tsv", "url\nhttp://a/1\nhttp://a/2\n", {}),
        ("a.txt", "http://a/1\n\nhttp://a/2", {}),
        ("a.jsonl", '{"url": "http://a/1"}\n{"url": "http://a/2"}\n', {}),
        ("a.json", '["x"]', None),
        ("b.json", '[{"url": "http://a/1"}, {"url": "http://a/2"}]', {}),
        ("a.csv", "url,width\nhttp://a/1,3\nhttp://a/2,4\n", {"caption_column": None}),
        ("a.csv", "url,caption\nhttp://a/1,x\nhttp://a/2,y\n", {"caption_column": None}),
    ],
)
def test_lists_of_urls_alone(tmp_path: Path, name: str, content: str, settings: dict[str, Any] | None) -> None:
    (tmp_path / name).write_text(content)
    if settings is None:
        with pytest.raises(InputError, match="is not a JSON object"):
            shards(tmp_path / "out", UrlList(path=tmp_path / name))
        return
    rows = shards(tmp_path / "out", UrlList(path=tmp_path / name, **settings))
    assert [(row["url"], row["caption"], row["status"]) for row in rows] == [(url, "", None) for url in URLS]


@pytest.mark.parametrize("name", ["web.tsv", "web.csv", "web.txt"])
def test_lists_without_a_header(tmp_path: Path, name: str) -> None:
    """CC12M has the URL first, CC3M the text; with more columns nobody knows what they are."""
    for at, rows in enumerate((["http://a/1\tx", "http://a/2\ty"], ["x\thttp://a/1", "y\thttp://a/2"])):
        (tmp_path / name).write_text("".join(f"{row}\n" for row in rows))
        found = shards(tmp_path / f"{at}", UrlList(path=tmp_path / name))
        assert [(row["url"], row["caption"]) for row in found] == [("http://a/1", "x"), ("http://a/2", "y")]
    (tmp_path / name).write_text("http://a/1\tx\t3\nhttp://a/2\ty\t4\n")
    with pytest.raises(InputError, match=r"no column 'url'.*; the first line has to name the columns$"):
        shards(tmp_path / "out", UrlList(path=tmp_path / name, caption_column=None))


def test_a_text_file_with_a_header_has_columns(tmp_path: Path) -> None:
    path = write_list(tmp_path / "web.tsv", ROWS).rename(tmp_path / "web.txt")
    assert [row["url"] for row in shards(tmp_path / "1", UrlList(path=path))] == [url for url, _ in ROWS]
    path.write_text("URL\nhttp://a/1\n")
    assert [row["url"] for row in shards(tmp_path / "2", UrlList(path=path))] == ["http://a/1"]


def test_a_first_record_without_a_text(tmp_path: Path) -> None:
    (tmp_path / "web.jsonl").write_text('{"url": "http://a/1"}\n{"url": "http://a/2", "caption": "b"}\n')
    assert [text for text, _ in texts(tmp_path / "out", UrlList(path=tmp_path / "web.jsonl"))] == ["", "b"]


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


def test_a_text_that_is_too_long_is_stored_cut_with_its_length(tmp_path: Path) -> None:
    long = "x " * 600_000
    path = write_list(
        tmp_path / "web.tsv", [("http://a/1", "y" * 10_000), ("http://a/1", long), ("http://a/1", long + "z")]
    )
    rows = shards(tmp_path / "out", UrlList(path=path))
    assert [row["cut_from_chars"] for row in rows] == [None, 1_200_000, 1_200_001]
    assert [len(row["caption"]) for row in rows] == [10_000, 200, 200]
    assert [row["status"] for row in rows] == [None] * 3, "other texts, though their beginnings are the same"
    assert len({row["uid"] for row in rows}) == 3
    (tmp_path / "few").mkdir()
    (part,) = write_shards([UrlList(path=path)], tmp_path / "few", 10, limit=1, max_text_chars=5)
    (row,) = read_parquet(part).to_pylist()
    assert (row["caption"], row["cut_from_chars"]) == ("yyyyy", 10_000)


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
