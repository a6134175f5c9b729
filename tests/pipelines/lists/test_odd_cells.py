"""URL lists whose cells or names no reader of the library takes as they are."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from blip_bootstrap.config import UrlList
from blip_bootstrap.errors import InputError
from blip_pipelines.lists.url_lists import read_list
from tests.pipelines.lists.written_lists import write_parquet_list


def captions(urls: UrlList) -> list[str]:
    return [row.caption for row in read_list(urls)]


NO_UTF8 = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\3\0\0\0\4\0\0\0"), pa.py_buffer(b"a\xffbc"))


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (NO_UTF8, ["a\ufffdb", "c"]),
        (NO_UTF8.dictionary_encode(), ["a\ufffdb", "c"]),
        (pa.array([0, 2**30], pa.date32()), ["1970-01-01", ""]),
        (pa.array([0, 2**62], pa.timestamp("ms")), ["1970-01-01 00:00:00.000", ""]),
        (
            pa.array([0, 1_500_000_000], pa.timestamp("s", "No/where")),
            ["1970-01-01 00:00:00.000", "2017-07-14 02:40:00.000"],
        ),
    ],
)
def test_parquet_cells_that_python_cannot_hold_end_no_run(tmp_path: Path, cells: pa.Array, said: list[str]) -> None:
    path = write_parquet_list(tmp_path / "web.parquet", url=["h://a/1", "h://a/2"], caption=cells)
    assert captions(UrlList(path=path)) == said


def test_texts_in_lists_that_are_no_utf8(tmp_path: Path) -> None:
    cells = pa.ListArray.from_arrays([0, 2], NO_UTF8)
    path = write_parquet_list(tmp_path / "web.parquet", url=["h://a/1"], caption=cells)
    assert captions(UrlList(path=path, caption_lists=True)) == ["a\ufffdb", "c"]


def test_a_name_with_spaces_is_found_or_suggested_as_yaml_needs_it(tmp_path: Path) -> None:
    path = write_parquet_list(tmp_path / "web.parquet", **{"url ": ["h://a/1"], "caption": ["x"]})
    assert captions(UrlList(path=path)) == ["x"]
    path = write_parquet_list(tmp_path / "own.parquet", **{"urls ": ["h://a/1"], "caption": ["x"]})
    with pytest.raises(InputError, match='Set url_column: "urls "'):
        captions(UrlList(path=path))


@pytest.mark.parametrize("content", ["url,caption\nh://a/1,x\n", '"URL";"caption"\nh://a/1;x\n'])
def test_a_csv_file_called_txt_has_columns(tmp_path: Path, content: str) -> None:
    path = tmp_path / "web.txt"
    path.write_text(content)
    name = "URL" if "URL" in content else "url"
    assert captions(UrlList(path=path, url_column=name)) == ["x"]
