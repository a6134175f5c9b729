"""Rows with the URL of an earlier row: fetched once, with that one's picture, in one part, across parts and growth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blip_bootstrap.config import DownloadConfig, RayConfig, UrlList
from blip_bootstrap.progress import Progress
from blip_bootstrap.schemas.tables import IMAGES, SHARD
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, rows_to_table, write_parquet
from blip_pipelines.cluster.tally import Tally
from blip_pipelines.ingest.copies import copy_of, fill, waiting_file
from blip_pipelines.ingest.download import ShardDownload, _run, download_images
from blip_pipelines.ingest.shard_parts import Shard

CONFIG = DownloadConfig(image_size=32, timeout_s=3, min_image_size=10, num_retries=0)


def write_shard(folder: Path, part: int, rows: list[tuple[str, str | None]]) -> Shard:
    """A shard of rows, each a URL and the key of its first."""
    name = f"part-{part:05d}.parquet"
    listed: list[dict[str, object]] = [
        {"key": f"{part:05d}{at:05d}", "uid": f"{part}-{at}", "dataset": "web", "url": url,
         "caption": f"text {part} {at}",
         "same_as": first}
        for at, (url, first) in enumerate(rows)
    ]  # fmt: skip
    write_parquet(folder / "rows" / name, rows_to_table(listed, SHARD), SHARD)
    return Shard(str(folder / "rows" / name), str(folder / name))


def rows_of(shard: Shard) -> list[dict[str, Any]]:
    return list(read_parquet(Path(shard.part)).to_pylist())


SHARED = ("status", "error_class", "width", "height", "original_width", "original_height", "sha256", "jpg", "exif")


def test_a_url_is_fetched_once_whatever_order_parts_are_made_in(tmp_path: Path, rude_server: Any) -> None:
    one, two, gone = (rude_server.url(name) for name in ("picture1.jpg", "picture2.png", "missing"))
    first = write_shard(tmp_path, 0, [(one, None), (gone, None), (one, f"{0:010d}"), (gone, f"{1:010d}")])
    second = write_shard(tmp_path, 1, [(two, None), (one, f"{0:010d}"), (gone, f"{1:010d}"), (two, "0000100000")])
    third = write_shard(tmp_path, 2, [(two, "0000100000"), (one, f"{0:010d}")])
    before = rude_server.asked.copy()
    work = ShardDownload(CONFIG, frozenset({rude_server.host}), tally=(tally := Tally()))
    for shard in (third, second, first):  # the worst order
        assert list(work(shard)) == [shard]
    assert not Path(second.part).exists()
    assert waiting_file(Path(second.part)).exists()
    assert Path(first.part).exists()
    for shard in (third, second):
        assert list(work(Shard(shard.rows, shard.part, is_last=True))) != []
    asked = rude_server.asked - before
    assert {name: number for name, number in asked.items() if "robots" not in name} == {
        "/missing": 1, "/picture1.jpg": 1, "/picture2.png": 1,
    }  # fmt: skip
    rows = {row["key"]: row for shard in (first, second, third) for row in rows_of(shard)}
    assert len(rows) == 10
    for row in rows.values():
        named = rows[row["same_as"] or row["key"]]
        assert [row[name] for name in SHARED] == [named[name] for name in SHARED]
        assert row["caption"] == f"text {int(row['key'][:5])} {int(row['key'][5:])}"
    assert rows["0000200001"]["jpg"]
    failed = rows["0000100002"]
    assert (failed["status"], failed["error_class"]) == ("failed_to_download", "http_4xx")
    assert failed["error_message"] == "the row 0000000001 with this URL failed"
    assert failed["attempts"] is None
    assert tally.total()["images"] == 10


def test_a_part_of_an_earlier_artifact_and_a_first_that_is_nowhere(tmp_path: Path, rude_server: Any) -> None:
    old = {"key": "0000000007", "uid": "u", "url": "u", "caption": "c", "status": "success", "jpg": b"old", "width": 3}
    write_parquet(tmp_path / "part-00000.parquet", rows_to_table([old], IMAGES).drop_columns(["same_as", "attempts"])
                  .append_column("same_as", [[None]]).append_column("attempts", [[None]]), IMAGES)  # fmt: skip
    url = rude_server.url("picture1.jpg")
    shard = write_shard(tmp_path, 3, [("u", "0000000007"), (url, "0000000008"), (url, "0000100000")])
    work = ShardDownload(CONFIG, frozenset({rude_server.host}), tally=Tally())
    assert list(work(shard)) == [shard]
    assert not Path(shard.part).exists()
    list(work(Shard(shard.rows, shard.part, is_last=True)))
    rows = rows_of(shard)
    assert (rows[0]["jpg"], rows[0]["width"], rows[0]["uid"]) == (b"old", 3, "3-0")
    assert [(row["status"], row["same_as"]) for row in rows[1:]] == [("success", None)] * 2  # fetched themselves


def test_what_a_copy_has_of_its_first() -> None:
    first = {name: f"first {name}" for name in IMAGES.schema.names} | {"status": "success", "error_message": None}
    own = {"key": "0000000001", "uid": "u", "url": "x", "caption": "c", "same_as": first["key"], "status": None}
    found = copy_of(own, first)
    assert {*found} == {*IMAGES.schema.names}
    assert {name: found[name] for name in own if name != "status"} == {k: v for k, v in own.items() if k != "status"}
    assert (found["sha256"], found["jpg"], found["status"]) == ("first sha256", "first jpg", "success")
    assert found["attempts"] is None
    rejected = {**own, "status": "rejected"}
    assert fill([rejected], Path("part-00000.parquet")) == []


def test_parts_that_waited_are_made_in_the_same_command(tmp_path: Path, rude_server: Any) -> None:
    urls = [rude_server.url(f"picture{at}.jpg") for at in range(4)]
    shards = [
        write_shard(tmp_path / "images", 0, [(url, None) for url in urls]),
        write_shard(tmp_path / "images", 1, [(url, f"{at:010d}") for at, url in enumerate(urls)]),
    ]
    config = CONFIG.model_copy(update={"allow_private_addresses": True})
    todo = [Path(shard.rows) for shard in reversed(shards)]
    before = rude_server.asked.copy()
    with Progress("download", 8, unit="images") as progress:
        _run(todo, tmp_path / "images", [], config, RayConfig(address="none"), progress, {})
    asked = rude_server.asked - before
    assert {name: number for name, number in asked.items() if "picture" in name} == {
        f"/picture{at}.jpg": 1 for at in range(4)
    }
    assert [row["jpg"] for row in rows_of(shards[1])] == [row["jpg"] for row in rows_of(shards[0])]
    assert not (tmp_path / "images" / ".waiting").exists()


def test_a_list_with_several_texts_of_a_url_asks_for_it_once(tmp_path: Path, rude_server: Any) -> None:
    url, path = rude_server.url("picture7.jpg"), tmp_path / "web.tsv"
    path.write_text("url\tcaption\n" + "".join(f"{url}\ttext {at}\n" for at in range(5)))
    more = {"urls": (UrlList(path=path),), "rows_per_shard": 2, "allow_private_addresses": True}
    before = rude_server.asked.copy()
    out, config = tmp_path / "images", CONFIG.model_copy(update=more)
    counts = download_images(out, path, config=config, ray=RayConfig(address="none"))
    assert (counts["success"], (rude_server.asked - before)["/picture7.jpg"]) == (5, 1)
    rows = [row for file in parquet_files(out) for row in read_parquet(file).to_pylist()]
    assert [row["same_as"] for row in rows] == [None, *["0000000000"] * 4]
    assert len({row["jpg"] for row in rows}) == 1
