"""Which columns of a list hold URLs and texts: by settings, by the names of published lists, without a header."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.config import UrlList
from blip_bootstrap.errors import InputError
from tests.pipelines.lists.written_lists import ROWS, URLS, shards, texts, write_list, write_parquet_list


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_a_missing_column_names_those_that_are_there(tmp_path: Path, ending: str) -> None:
    path = write_list(tmp_path / f"web{ending}", ROWS, columns=("src", "title"))
    with pytest.raises(InputError, match=r"no column 'url'; its columns are: src, title; did you mean src"):
        shards(tmp_path / "out", UrlList(path=path))


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
