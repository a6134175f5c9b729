from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from blip_bootstrap.config import AnnotatedSet, DownloadConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.tables import ANNOTATED
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.ingest.annotated import ingest_annotated
from blip_pipelines.ingest.pictures import WebStore


def picture(path: Path, size: tuple[int, int]) -> str:
    Image.new("RGB", size, "red").save(path)
    return path.name


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, Any]]:
    (tmp_path / "text.jpg").write_text("<html>")
    small = picture(tmp_path / "small.png", (40, 30))
    (tmp_path / "cut.png").write_bytes((tmp_path / small).read_bytes()[:60])
    return [
        {"image": small, "captions": ["a  red\npicture", ""], "domain": "in"},
        {"image": picture(tmp_path / "large.jpg", (400, 300)), "captions": "one text"},
        {"image": "missing.jpg", "captions": ["x"]},
        {"image": "text.jpg", "captions": ["x"]},
        {"image": "cut.png", "captions": ["x"]},
        {"image": small, "captions": []},
        {"image": None, "captions": ["x"]},
    ]


def ingest(tmp_path: Path, source: Path, **settings: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True, parents=True)
    counts = ingest_annotated(out, source, AnnotatedSet(path=source, image_size=100, **settings))
    tables = [read_parquet(path) for path in parquet_files(out)]
    assert all(table.schema.equals(ANNOTATED.schema) for table in tables)
    return dict(counts), [row for table in tables for row in table.to_pylist()]


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_every_row_stays(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    counts, rows = ingest(tmp_path, write_jsonl(tmp_path / "human.jsonl", records), rows_per_shard=3)
    assert [row["key"] for row in rows] == [f"{i // 3:05d}{i % 3:05d}" for i in range(7)]
    assert [row["status"] for row in rows] == ["success"] * 2 + ["failed_to_download"] + ["failed_to_resize"] * 4
    classes = ["other", "not_an_image", "truncated_image", "other", "not_an_image"]
    assert [row["error_class"] for row in rows[2:]] == classes
    assert counts == {
        "rows": 7, "success": 2, "failed_to_download": 1, "failed_to_resize": 4, "other": 2, "not_an_image": 2,
        "truncated_image": 1, "captions": 2,
    }  # fmt: skip
    assert [row["captions"] for row in rows[:2]] == [["a red picture"], ["one text"]]
    assert [row["domain"] for row in rows[:2]] == ["in", None]


def test_small_pictures_keep_their_bytes_and_large_ones_shrink(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    _, rows = ingest(tmp_path, write_jsonl(tmp_path / "human.jsonl", records))
    assert rows[0]["jpg"] == (tmp_path / "small.png").read_bytes()
    assert Image.open(io.BytesIO(rows[1]["jpg"])).size == (133, 100)


def test_parquet_with_other_column_names(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    table = pa.table({"file": [r["image"] for r in records[:1]], "texts": [r["captions"] for r in records[:1]]})
    pq.write_table(table, tmp_path / "human.parquet")
    counts, _ = ingest(tmp_path, tmp_path / "human.parquet", image_column="file", captions_column="texts")
    assert counts == {"rows": 1, "success": 1, "captions": 1}


def test_parts_that_are_there_are_kept(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    source = write_jsonl(tmp_path / "human.jsonl", records)
    first = ingest(tmp_path, source, rows_per_shard=3)
    before = {path.name: path.stat().st_mtime_ns for path in parquet_files(tmp_path / "out")}
    (tmp_path / "out" / "part-00001.parquet").unlink()
    assert ingest(tmp_path, source, rows_per_shard=3) == first
    after = {path.name: path.stat().st_mtime_ns for path in parquet_files(tmp_path / "out")}
    assert [name for name in before if before[name] != after[name]] == ["part-00001.parquet"]


def test_a_sample_is_drawn_by_its_seed(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    many = write_jsonl(tmp_path / "human.jsonl", [{**records[0], "captions": [str(i)]} for i in range(20)])

    def drawn(seed: int) -> list[str]:
        folder = tmp_path / str(seed)
        config = AnnotatedSet(path=many, sample=8, sample_seed=seed, rows_per_shard=3)
        assert ingest_annotated(folder, many, config)["rows"] == 8
        tables = [read_parquet(path, ["key", "captions"]) for path in parquet_files(folder)]
        assert [table.num_rows for table in tables] == [3, 3, 2]
        return [row["captions"][0] for table in tables for row in table.to_pylist()]

    first = drawn(1)
    assert len({*first}) == 8
    assert first == sorted(first, key=int)
    assert drawn(2) != first
    with pytest.raises(InputError, match="20 rows, sample asks for 21"):
        ingest_annotated(tmp_path / "out", many, AnnotatedSet(path=many, sample=21))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("human.jsonl", '{"images": "a", "captions": []}', "no column 'image'; .* did you mean images"),
        ("human.jsonl", "nonsense", "line 1 is not a JSON object"),
        ("human.jsonl", '{"image": "a", "captions": ["x"]}', "none of 1 rows has a readable picture"),
        ("human.csv", "image,captions", "ends in one of .jsonl .ndjson .json .parquet, not '.csv'"),
        ("human.parquet", "nonsense", "not a readable Parquet file"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        ingest(tmp_path, tmp_path / name)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        ingest(tmp_path, tmp_path / "human.jsonl")


def one_picture(tmp_path: Path, lines: str) -> Path:
    picture(tmp_path / "p.png", (40, 30))
    (tmp_path / "human.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path / "human.jsonl"


def test_captions_that_are_no_texts_are_never_their_python_spelling(tmp_path: Path) -> None:
    source = one_picture(
        tmp_path,
        '{"image": "p.png", "captions": [1, 2.5, null, true, NaN, "a\u2028b"]}\n'
        '{"image": "p.png", "captions": [{"tokens": ["a"], "raw": "a cat.", "imgid": 1}, {"caption": "a dog"}]}\n'
        '{"image": "p.png", "captions": {"en": "x"}}\n'
        '{"image": "p.png", "captions": [["x"]]}\n'
        '{"image": ["p.png"], "captions": ["x"]}\n'
        + "[" * 100_000
        + "\n"
        + json.dumps({"image": "p.png", "captions": ["x" * 10_001, "short"], "domain": 3}),
    )
    counts, rows = ingest(tmp_path, source)
    assert [row["captions"] for row in rows] == [["1", "2.5", "a b"], ["a cat.", "a dog"], [], [], [], [], ["short"]]
    assert [row["error_message"] for row in rows[2:6]] == [
        "line 3: a mapping where a text was expected", "line 4: a list of 1 where a text was expected",
        "line 5: a list of 1 where a text was expected", "line 6 is not a JSON object",
    ]  # fmt: skip
    assert rows[6]["domain"] == "3"
    assert counts == {
        "rows": 7, "success": 3, "failed_to_resize": 4, "other": 4, "captions": 6, "captions_too_long": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"image": [{"bytes": b"x", "path": "p.png"}]},
            "image_column 'image' holds struct<.*give the pictures' file names",
        ),
        ({"captions": [True]}, "captions_column 'captions' holds bool.*give a text or a list of texts a row"),
        ({"captions": [{"en": "a"}]}, "captions_column 'captions' holds struct<"),
        ({"image": [b"p.png"], "captions": [[b"caf\xc3\xa9", None]]}, None),
        ({"captions": [[{"raw": "caf\u00e9"}]]}, None),
        ({"captions": ["caf\u00e9"]}, None),
    ],
)
def test_columns_by_their_types(tmp_path: Path, columns: dict[str, Any], said: str | None) -> None:
    picture(tmp_path / "p.png", (40, 30))
    pq.write_table(pa.table({"image": ["p.png"], "captions": [["a"]]} | columns), tmp_path / "human.parquet")
    if said:
        with pytest.raises(InputError, match=said):
            ingest(tmp_path, tmp_path / "human.parquet")
    else:
        assert ingest(tmp_path, tmp_path / "human.parquet")[1][0]["captions"] == ["café"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            '{"file_name": "p.png", "caption": "x"}',
            "did you mean file_name.* Set image_column: file_name, captions_column: c",
        ),
        ('{"images": [{"filename": "p.png", "sentences": []}], "dataset": "coco"}', "seem to be its list 'images'"),
    ],
)
def test_sets_of_another_shape_are_told_what_to_write(tmp_path: Path, lines: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ingest(tmp_path, one_picture(tmp_path, lines))


@pytest.mark.parametrize("mode", ["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"])
def test_pictures_are_stored_as_those_of_the_web(tmp_path: Path, mode: str) -> None:
    Image.effect_noise((400, 300), 60).convert("RGB").save(tmp_path / "large.png")
    source = write_jsonl(tmp_path / "human.jsonl", [{"image": "large.png", "captions": ["noise"]}])
    _, rows = ingest(tmp_path, source, resize_mode=mode)
    with WebStore(DownloadConfig(image_size=100, resize_mode=mode)) as store:
        _, jpg = store((tmp_path / "large.png").read_bytes())
    stored = (tmp_path / "large.png").read_bytes() if mode == "no" else jpg
    assert rows[0]["jpg"] == stored


@pytest.mark.parametrize("change", ["exif", "16 bits", "transparency", "text", "gif"])
def test_bytes_that_hold_more_than_the_pixels_are_not_kept(tmp_path: Path, change: str) -> None:
    small, file, more = Image.new("RGB", (40, 30), "red"), tmp_path / "small.png", PngInfo()
    more.add_text("Comment", "x" * 5_000)
    exif = Image.Exif()
    exif[0x0112] = 3
    if change == "16 bits":
        Image.fromarray(np.full((30, 40), 40_000, np.uint16)).save(file)
    elif change == "transparency":
        small.save(file, transparency=(255, 0, 0))
    else:
        file = tmp_path / "small.gif" if change == "gif" else file
        options: dict[str, dict[str, Any]] = {"exif": {"exif": exif}, "text": {"pnginfo": more}}
        small.save(file, **options.get(change, {}))
    _, rows = ingest(tmp_path, write_jsonl(tmp_path / "human.jsonl", [{"image": file.name, "captions": ["x"]}]))
    assert rows[0]["status"] == "success"
    assert Image.open(io.BytesIO(rows[0]["jpg"])).format == "JPEG"


def test_a_picture_that_is_too_large_is_a_row(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    counts, rows = ingest(tmp_path, write_jsonl(tmp_path / "human.jsonl", records), max_pixels=40 * 30)
    assert rows[1]["error_message"] == "large.jpg: 120,000 pixels by its header; at most 1,200 (max_pixels)"
    assert (counts["success"], counts["too_many_pixels"]) == (1, 1)
    _, rows = ingest(tmp_path / "other", tmp_path / "human.jsonl", max_pixels=400 * 300 - 1)
    assert rows[1]["error_message"] == "large.jpg: 400 x 300 pixels by its header; at most 119,999 (max_pixels)"
