"""What stands in the cells of lists: texts, numbers, bytes, and what is no text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.config import UrlList
from blip_bootstrap.errors import InputError
from blip_bootstrap.storage.parquet import read_parquet
from blip_pipelines.lists.shards import write_shards
from tests.pipelines.lists.written_lists import URLS, shards, texts, write_list, write_parquet_list


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
