from __future__ import annotations

import gzip
import hashlib
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from blip_bootstrap.config import DownloadConfig, PictureSource, UrlList
from blip_bootstrap.errors import InputError
from blip_pipelines.ingest.download import download_images
from tests.pipelines.bring.brought_pictures import HERE, PICTURES, bring, picture, sample, write_tar

UID = "0123456789abcdef" * 2


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
