from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from blip_bootstrap.config import DownloadConfig, PictureSource, RayConfig, UrlList
from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_pipelines.ingest.download import download_images
from tests.support.moto_store import Bucket, environment, moto_server

HERE = RayConfig(address="none")

UID = "0123456789abcdef" * 2


def picture(number: int, size: tuple[int, int] = (40, 30), kind: str = "JPEG", **more: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (number * 40 % 256, 90, 200)).save(stream, kind, **more)
    return stream.getvalue()


PICTURES = [picture(number) for number in range(4)]


def bring(out: Path, *pictures: PictureSource, urls: tuple[UrlList, ...] = (), **more: Any) -> list[dict[str, Any]]:
    config = DownloadConfig(pictures=pictures, urls=urls, image_size=64, max_pixels=1_000_000, **more)
    paths = [*(one.path for one in urls), *(one.path for one in pictures)]
    download_images(out, *paths, config=config, ray=HERE)
    tables = [read_parquet(path) for path in parquet_files(out)]
    assert all(table.schema.equals(IMAGES.schema) for table in tables)
    assert not (out / ".bring").exists()
    return [row for table in tables for row in table.to_pylist()]


def write_tar(path: Path, samples: list[dict[str, Any]]) -> Path:
    """A shard by webdataset's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as sink:
        for sample in samples:
            sink.write(sample)
    return path


def sample(number: int, **more: Any) -> dict[str, Any]:
    return {"__key__": f"{number:09d}", "jpg": PICTURES[number], "txt": f"text {number}"} | more


def test_a_shard_of_img2dataset(tmp_path: Path) -> None:
    """Its names and fields; the sha256 of the record is that of the bytes before they were resized."""
    record = {
        "url": "http://a/1.jpg", "caption": "text 1", "key": "000000001", "status": "success", "error_message": None,
        "width": 40, "height": 30, "original_width": 400, "original_height": 300, "exif": "{}", "sha256": "ab" * 32,
    }  # fmt: skip
    write_tar(tmp_path / "in" / "00000.tar", [sample(1, json=record), sample(2)])
    pq.write_table(pa.table({"url": ["http://a/1.jpg"], "caption": ["text 1"]}), tmp_path / "in" / "00000.parquet")
    (tmp_path / "in" / "00000_stats.json").write_text('{"count": 2}')
    first, second = bring(tmp_path / "out", PictureSource(path=tmp_path / "in"))
    assert [row["jpg"] for row in (first, second)] == PICTURES[1:3], "bytes as they are"
    assert (first["key"], first["source_key"], first["url"]) == ("0000000000", "000000001", "http://a/1.jpg")
    assert (first["caption"], first["dataset"], first["sha256"]) == ("text 1", "in", "ab" * 32)
    assert first["uid"] == hashlib.sha256(b"http://a/1.jpg\ntext 1").hexdigest()[:32]
    assert (first["width"], first["height"], first["status"]) == (40, 30, "success")
    assert json.loads(first["extra"])["original_width"] == 400
    assert (second["url"], second["caption"]) == ("in/00000.tar/000000002", "text 2")
    assert second["sha256"] == hashlib.sha256(PICTURES[2]).hexdigest()
    origin = json.loads(first["origin"])
    assert (tmp_path / "in" / origin["file"]).read_bytes()[origin["at"] :][: origin["size"]] == PICTURES[1]


@pytest.mark.parametrize("packed", ["tar", "tar.gz", "tgz", "tar.zst"])
def test_packed_shards(tmp_path: Path, packed: str) -> None:
    plain = write_tar(tmp_path / "a.tar", [sample(1), sample(2)]).read_bytes()
    body = plain if packed == "tar" else gzip.compress(plain) if "z" in packed[-2:] and "zst" not in packed else None
    (tmp_path / f"b.{packed}").write_bytes(body or pa.compress(plain, "zstd", asbytes=True))
    rows = bring(tmp_path / "out", PictureSource(path=tmp_path / f"b.{packed}"))
    assert [row["jpg"] for row in rows] == PICTURES[1:3]
    assert [row["caption"] for row in rows] == ["text 1", "text 2"]


def test_a_packed_shard_that_grows_without_end_is_cut(tmp_path: Path) -> None:
    plain = write_tar(tmp_path / "a.tar", [sample(1), {"__key__": "pad", "bin": bytes(4 << 20)}, sample(2)])
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    rows = bring(tmp_path / "out", PictureSource(path=tmp_path / "b.tar.gz"))
    found = {row["source_key"]: (row["jpg"], row["error_class"]) for row in rows}
    assert found["000000001"] == (PICTURES[1], None)
    assert found["000000002"] == (None, "truncated_image")


def test_damaged_members_are_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    samples = [
        sample(0, jpg=PICTURES[0][:-200]), sample(1, jpg=b"<html>"), sample(2),
        {"__key__": "no", "txt": "without a picture"}, {"__key__": "bomb", "png": bomb.getvalue()},
        {"__key__": "bad", "jpg": PICTURES[3], "json": b'{"caption": '}, sample(3, jpg=b""),
        {"__key__": "sum", "jpg": PICTURES[3], "json": {"sha256": "cd" * 32, "caption": "x"}},
    ]  # fmt: skip
    whole = write_tar(tmp_path / "in" / "a.tar", samples).read_bytes()
    cut = write_tar(tmp_path / "in" / "b.tar", [sample(1), sample(2)])
    cut.write_bytes(cut.read_bytes()[:2_600])
    (tmp_path / "in" / "c.tar").write_bytes(b"no tar")
    assert len(whole) > 10_000
    rows = bring(tmp_path / "out", PictureSource(path=tmp_path / "in"))
    assert [(row["source_key"], row["error_class"]) for row in rows] == [
        ("000000000", "truncated_image"), ("000000001", "not_an_image"), ("000000002", None), ("no", "other"),
        ("bomb", "too_many_pixels"), ("bad", "other"), ("000000003", "not_an_image"), ("sum", "wrong_digest"),
        ("000000001", None), ("damage-0", "other"), ("damage-0", "other"),
    ]  # fmt: skip
    told = {row["source_key"]: row["error_message"] for row in rows}
    assert "a.tar: no has no picture" in told["no"]
    assert "its JSON is damaged" in told["bad"]
    assert f"the record says {'cd' * 32}" in told["sum"]
    assert "damaged or cut" in told["damage-0"]
    assert "in: records without a picture: 4 (the first: a.tar: no has no picture)" in capsys.readouterr().err


def test_several_texts_are_rows_of_one_picture(tmp_path: Path) -> None:
    captions = [{"caption": "written", "source": "synthetic", "itm_score": 0.9}, {"caption": "given", "source": "web"}]
    samples = [
        sample(1, json={"uid": UID, "url": "http://a/1", "caption": "written", "captions": captions, "dataset": "w"}),
        sample(2, txt="one\ntwo\n"), sample(3, json=["a", "b"]),
    ]  # fmt: skip
    write_tar(tmp_path / "a.tar", samples)
    rows = bring(tmp_path / "out", PictureSource(path=tmp_path / "a.tar"))
    assert [row["caption"] for row in rows] == ["given", "written", "one", "two", "a", "b"]
    assert [row["uid"] == UID for row in rows] == [True] + [False] * 5
    assert len({row["uid"] for row in rows}) == 6
    assert [row["url"] for row in rows[:4]] == ["http://a/1"] * 2 + ["a/a.tar/000000002"] * 2
    assert json.loads(rows[1]["extra"]) == {"source": "synthetic", "itm_score": 0.9}
    assert json.loads(rows[0]["extra"]) == {"source": "web", "dataset": "w"}
    assert [row["jpg"] for row in rows] == [PICTURES[1]] * 2 + [PICTURES[2]] * 2 + [PICTURES[3]] * 2


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


def test_what_is_resized_and_what_keeps_its_bytes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    turned = Image.Exif()
    turned[0x0112] = 6
    bodies = {
        "a_exif.jpg": picture(1, exif=exif), "b.png": picture(1, kind="PNG"), "c.webp": picture(1, kind="WEBP"),
        "d_large.jpg": picture(1, (200, 100)), "e_turned.jpg": picture(1, exif=turned), "f.bmp": picture(1, kind="BMP"),
    }  # fmt: skip
    (tmp_path / "in").mkdir()
    for name, body in bodies.items():
        (tmp_path / "in" / name).write_bytes(body)
    rows = bring(tmp_path / "out", PictureSource(path=tmp_path / "in"))
    kept = [row["jpg"] == body for row, body in zip(rows, bodies.values(), strict=True)]
    assert kept == [True, True, True, False, False, False]
    assert [(row["width"], row["height"]) for row in rows[3:]] == [(128, 64), (30, 40), (40, 30)]
    assert (rows[3]["original_width"], rows[3]["jpg"][:2]) == (200, b"\xff\xd8")
    assert [row["sha256"] for row in rows] == [hashlib.sha256(body).hexdigest() for body in bodies.values()]


def test_a_shard_more_makes_its_parts_alone(tmp_path: Path) -> None:
    write_tar(tmp_path / "in" / "0.tar", [sample(0), sample(1)])
    entry = PictureSource(path=tmp_path / "in")
    bring(tmp_path / "1", entry, rows_per_shard=2)
    write_tar(tmp_path / "in" / "1.tar", [sample(2)])
    config = DownloadConfig(pictures=(entry,), image_size=64, rows_per_shard=2)
    counts = download_images(tmp_path / "2", entry.path, config=config, ray=HERE, kin=[tmp_path / "1"])
    assert (counts["rows"], counts["success"]) == (3, 3)
    assert (tmp_path / "2" / "part-00000.parquet").is_symlink()
    assert not (tmp_path / "2" / "part-00001.parquet").is_symlink()


def test_a_failed_row_is_tried_again_and_a_lost_part_is_made_anew(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "0.tar", [sample(0), sample(1), sample(2)])
    whole = shard.read_bytes()
    shard.write_bytes(whole.replace(PICTURES[1], bytes(len(PICTURES[1]))))
    entry = PictureSource(path=shard)
    assert [row["status"] for row in bring(tmp_path / "1", entry)] == ["success", "failed_to_resize", "success"]
    shard.write_bytes(whole)
    config = DownloadConfig(pictures=(entry,), image_size=64, max_pixels=1_000_000)
    counts = download_images(
        tmp_path / "2", entry.path, config=config, ray=HERE, kin=[tmp_path / "1"], retry="failed:not_an_image"
    )
    assert (counts["rows"], counts["success"]) == (3, 3)


def test_pictures_and_urls_in_one_run(tmp_path: Path) -> None:
    """A row of a list whose URL and text are there already is a repeated one, and is not fetched."""
    write_tar(tmp_path / "a.tar", [sample(1, json={"url": "http://a.invalid/1", "caption": "text 1"})])
    (tmp_path / "web.tsv").write_text("url\tcaption\nhttp://a.invalid/1\ttext 1\n\tx\n")
    rows = bring(tmp_path / "out", PictureSource(path=tmp_path / "a.tar"), urls=(UrlList(path=tmp_path / "web.tsv"),))
    assert [(row["dataset"], row["status"], row["error_class"]) for row in rows] == [
        ("a", "success", None), ("web", "rejected", "duplicate_row"), ("web", "rejected", "blank_url"),
    ]  # fmt: skip


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"x\ty\n1\t2\n", r"a.tsv: no pictures were found here \(1 files; .*; of a.tsv say image_column\)$"),
        ("a.bin", b"", r"a.bin: no pictures were found here"),
        ("a.tar", None, r"a.tar: no such file or folder$"),
    ],
)
def test_what_holds_no_pictures_is_told_in_a_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        bring(tmp_path / "out", PictureSource(path=tmp_path / name))
    assert "\n" not in str(caught.value)


def test_braces_and_names_of_other_encodings(tmp_path: Path) -> None:
    for at in range(3):
        write_tar(tmp_path / f"{at:02d}.tar", [sample(at) | {"__key__": "caf\udce9"}])
    path = tmp_path / "{00..01}.tar"
    rows = bring(tmp_path / "out", PictureSource(path=path, dataset="web"))
    assert [(row["caption"], row["source_key"], row["url"]) for row in rows] == [
        (f"text {at}", "caf?", f"web/0{at}.tar/caf?") for at in range(2)
    ]


def test_a_list_whose_pictures_are_elsewhere(tmp_path: Path) -> None:
    path = write_list_beside(tmp_path / "in")
    moved = path.rename(tmp_path / "list.json")
    with pytest.raises(InputError, match=r"none of its first 4 pictures is there: .*0.jpg; set image_root"):
        bring(tmp_path / "1", PictureSource(path=moved))
    rows = bring(tmp_path / "2", PictureSource(path=moved, image_root=tmp_path / "in" / "images"))
    assert [row["jpg"] for row in rows] == PICTURES


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(PICTURES[0])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "list.csv").write_text("image,caption\n../secret.jpg,x\n/etc/hostname,y\nnone.jpg,z\na.jpg,a\n")
    (tmp_path / "in" / "a.jpg").write_bytes(PICTURES[0])
    rows = bring(tmp_path / "out", PictureSource(path=tmp_path / "in"))
    assert [(row["status"], row["error_class"]) for row in rows] == [("rejected", "other")] * 2 + [
        ("failed_to_download", "other"),
        ("success", None),
    ]
    assert "names a picture outside of its folder" in rows[0]["error_message"]
