"""Text files of all kinds give the same lines; what is no text is told in one line."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.text_files import lines_of, plain_suffix

TEXT = "url\tcaption\nhttp://a/1\tGrüße\u2028from\x85東京\x0b\n\nend"
LINES = [(1, "url\tcaption"), (2, "http://a/1\tGrüße\u2028from\x85東京\x0b"), (3, ""), (4, "end")]


def zstd(body: bytes) -> bytes:
    return bytes(pa.compress(body, codec="zstd", asbytes=True))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_bytes_decide_whatever_the_name(tmp_path: Path, pack: type[bytes], encoding: str, end: str) -> None:
    path = tmp_path / "list.tsv"
    path.write_bytes(pack(TEXT.replace("\n", end).encode(encoding)))
    assert list(lines_of(path)) == LINES


def test_a_carriage_return_inside_a_line_is_no_end(tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_bytes(b"a\tb\none\rtwo\r\nthree")
    assert [line for _, line in lines_of(path)] == ["a\tb", "one\rtwo", "three"]


def test_compressed_files_one_behind_the_other_are_one(tmp_path: Path) -> None:
    packs: list[Any] = [gzip.compress, bz2.compress, lzma.compress, zstd]
    for number, pack in enumerate(packs):
        path = tmp_path / str(number)
        path.write_bytes(pack(b"one\n") + pack(b"two\n"))
        assert [line for _, line in lines_of(path)] == ["one", "two"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd])
def test_a_compressed_file_that_is_cut_is_one_line(tmp_path: Path, pack: type[bytes]) -> None:
    path = tmp_path / "list.tsv"
    path.write_bytes(pack(TEXT.encode() * 50)[:-6])
    with pytest.raises(InputError, match=r"list\.tsv: ") as caught:
        list(lines_of(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"PK\x03\x04 and more", "is a ZIP archive"),
        (b"PAR1 and more", "is a Parquet file; let its name end in .parquet"),
        (b"\xff\xd8\xff\xe0", "is a picture"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        ("url\tcaption\n".encode("utf-16-le"), "is no text of UTF-8"),
        (b"\x1f\x8bnonsense", "compressed file is damaged"),
    ],
)
def test_what_is_no_text(tmp_path: Path, body: bytes, said: str) -> None:
    (tmp_path / "list.tsv").write_bytes(body)
    with pytest.raises(InputError, match=said):
        list(lines_of(tmp_path / "list.tsv"))


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="cannot be read"):
            list(lines_of(path))


def test_the_ending_that_tells_the_format() -> None:
    names = ("a.TSV", "a.tsv.gz", "a.b.csv.zst", "a.gz", "a")
    assert [plain_suffix(Path(name)) for name in names] == [".tsv", ".tsv", ".csv", "", ""]
