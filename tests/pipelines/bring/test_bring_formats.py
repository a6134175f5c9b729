"""Pictures in every format that is read: each gives the same pictures and texts."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blip_bootstrap.config import PictureSource
from blip_bootstrap.errors import InputError
from tests.pipelines.bring.brought_pictures import PICTURES, bring, sample, write_tar
from tests.support.moto_store import Bucket, environment, moto_server


def write_hub(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    image = pa.array([{"bytes": body, "path": f"{at}.jpg"} for at, body in enumerate(PICTURES)])
    table = pa.table({"image": image, "text": ["a", "b", ["c"][0], None], "label": [1, 2, 3, 4]})
    pq.write_table(table.slice(0, 3), folder / "data" / "train-00000-of-00002.parquet", row_group_size=2)
    pq.write_table(table.slice(3), folder / "data" / "train-00001-of-00002.parquet")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def write_img2dataset_parquet(folder: Path) -> Path:
    folder.mkdir()
    table = {"url": [f"http://a/{at}" for at in range(4)], "caption": ["a", "b", "c", None], "key": list("0123"),
             "status": ["success"] * 4, "jpg": PICTURES}  # fmt: skip
    pq.write_table(pa.table(table), folder / "00000.parquet")
    return folder


def write_files(folder: Path) -> Path:
    """As img2dataset's output format `files`."""
    (folder / "00000").mkdir(parents=True)
    for at, body in enumerate(PICTURES):
        (folder / "00000" / f"{at}.jpg").write_bytes(body)
    for at, text in enumerate("abc"):
        (folder / "00000" / f"{at}.txt").write_text(text)
    (folder / "00000" / "0.json").write_text('{"caption": "a", "url": "http://a/0", "key": "0"}')
    pq.write_table(pa.table({"url": ["http://a/0"], "caption": ["a"], "key": ["0"]}), folder / "00000.parquet")
    return folder


def write_image_folder(folder: Path) -> Path:
    """As Hugging Face's imagefolder, with metadata.csv."""
    (folder / "train").mkdir(parents=True)
    with (folder / "train" / "metadata.csv").open("w", newline="") as stream:
        rows = [[f"{at}.jpg", text] for at, text in enumerate(["a", "b", "c", ""])]
        csv.writer(stream).writerows([["file_name", "text"], *rows])
    for at, body in enumerate(PICTURES):
        (folder / "train" / f"{at}.jpg").write_bytes(body)
    return folder


def write_list_beside(folder: Path) -> Path:
    """As the annotated sets of BLIP: a list, and its pictures in a folder beside it."""
    (folder / "images").mkdir(parents=True)
    for at, body in enumerate(PICTURES):
        (folder / "images" / f"{at}.jpg").write_bytes(body)
    lines = [{"image": f"{at}.jpg", "caption": text} for at, text in enumerate(["a", "b", "c", ""])]
    (folder / "list.json").write_text(json.dumps(lines))
    return folder / "list.json"


def write_coco(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    for at, body in enumerate(PICTURES):
        (folder / "images" / f"{at}.jpg").write_bytes(body)
    images = [{"id": at, "file_name": f"images/{at}.jpg", "height": 30, "width": 40} for at in range(4)]
    texts = [{"id": 7 + at, "image_id": at, "caption": text} for at, text in enumerate("abc")]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": texts, "info": {}}))
    return folder


def write_captions_txt(folder: Path) -> Path:
    """As Flickr8k's: no header, several numbered captions."""
    write_image_folder(folder)
    (folder / "train" / "metadata.csv").unlink()
    (folder / "captions.txt").write_text(
        "".join(f"{at}.jpg#0\t{text}\n" for at, text in enumerate(["a", "b", "c", ""]))
    )
    return folder


def write_mapping(folder: Path) -> Path:
    write_image_folder(folder)
    (folder / "train" / "metadata.csv").unlink()
    (folder / "train" / "captions.json").write_text(
        json.dumps({"0.jpg": "a", "1.jpg": ["b"], "2.jpg": "c", "3.jpg": ""})
    )
    return folder


def write_coco_beside_others(folder: Path) -> Path:
    """As COCO comes: lists of boxes beside the captions, and pictures in another folder."""
    write_coco(folder)
    (folder / "annotations").mkdir()
    known = json.loads((folder / "captions.json").read_text())
    known["images"] = [one | {"file_name": Path(one["file_name"]).name} for one in known["images"]]
    (folder / "annotations" / "captions_train.json").write_text(json.dumps(known))
    boxes = [{"id": 1, "image_id": 0, "bbox": [1, 2, 3, 4]}]
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(known | {"annotations": boxes}))
    (folder / "captions.json").unlink()
    return folder


WRITERS = [
    write_hub, write_img2dataset_parquet, write_files, write_image_folder, write_list_beside, write_coco,
    write_captions_txt, write_mapping, write_coco_beside_others,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITERS)
def test_formats_give_the_same_pictures_and_texts(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    rows = bring(tmp_path / "out", PictureSource(path=write(tmp_path / "in")), rows_per_shard=3)
    assert [(row["jpg"], row["caption"]) for row in rows] == list(zip(PICTURES, ["a", "b", "c", ""], strict=True))
    assert [row["status"] for row in rows] == ["success"] * 4
    assert all(row["source_key"] for row in rows)
    assert len({row["uid"] for row in rows}) == 4


def test_pictures_on_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = write_tar(tmp_path / "a.tar", [sample(0), sample(1)]).read_bytes()
    hub = write_hub(tmp_path / "hub") / "data" / "train-00001-of-00002.parquet"
    with moto_server() as endpoint:
        for name, value in environment(endpoint, tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        bucket = Bucket(endpoint)
        bucket["web/0.tar"], bucket["web/1.tar.gz"] = shard, gzip.compress(shard)
        bucket["hub/data/a.parquet"] = hub.read_bytes()
        bucket["files/x/a.jpg"], bucket["files/x/a.txt"] = PICTURES[2], b"beside"
        for at, (path, found, texts) in enumerate([
            ("s3://bucket/web/*.tar", PICTURES[:2], ["text 0", "text 1"]),
            ("s3://bucket/web/1.tar.gz", PICTURES[:2], ["text 0", "text 1"]),
            ("s3://bucket/hub", PICTURES[3:], [""]), ("s3://bucket/files", PICTURES[2:3], ["beside"]),
        ]):  # fmt: skip
            rows = bring(tmp_path / f"{at}", PictureSource.model_validate({"path": path}))
            assert [(row["jpg"], row["caption"]) for row in rows] == list(zip(found, texts, strict=True)), path


def test_a_list_whose_pictures_are_elsewhere(tmp_path: Path) -> None:
    path = write_list_beside(tmp_path / "in")
    moved = path.rename(tmp_path / "list.json")
    with pytest.raises(InputError, match=r"none of its first 4 pictures is there: .*0.jpg; set image_root"):
        bring(tmp_path / "1", PictureSource(path=moved))
    rows = bring(tmp_path / "2", PictureSource(path=moved, image_root=tmp_path / "in" / "images"))
    assert [row["jpg"] for row in rows] == PICTURES
