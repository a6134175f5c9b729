"""Pictures that the lists have several times: equal ones, ones that look alike, and who is the first of a group."""

from __future__ import annotations

import hashlib
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from blip_bootstrap.config import DuplicatesConfig, FindSamePicturesConfig, RayConfig, SelectConfig
from blip_bootstrap.schemas.tables import ANNOTATED, CAPTIONS, IMAGES, PICTURE_HASHES
from blip_bootstrap.select.pairs import select_pairs, take_web_pairs
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, rows_to_table, write_parquet
from blip_bootstrap.storage.parts import write_left_out
from blip_pipelines.duplicates.groups import group_pictures
from blip_pipelines.duplicates.hashes import hash_pictures
from blip_pipelines.duplicates.near import distances, pairs_between, pairs_in_band, to_words
from blip_pipelines.duplicates.same_pictures import find_same_pictures
from blip_training.feed.left_out import read_left_out as read_left_out_pictures

HERE = RayConfig(address="none")


def scene(seed: int, size: int = 256) -> Image.Image:
    """A picture with structure: some coloured shapes."""
    rng = random.Random(seed)
    image = Image.new("RGB", (size, size), tuple(rng.randrange(256) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    for _ in range(25):
        x, y, r = rng.randrange(size), rng.randrange(size), rng.randrange(10, 70)
        draw = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        draw((x - r, y - r, x + r, y + r), fill=tuple(rng.randrange(256) for _ in range(3)))
    return image


def jpeg(image: Image.Image, quality: int = 95) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def write_images(folder: Path, bodies: list[bytes | dict[str, Any]], part: int = 0) -> Path:
    """A part of images: pictures, or rows that are others in some columns."""
    rows: list[dict[str, object]] = []
    for at, one in enumerate(bodies):
        own: dict[str, Any] = one if isinstance(one, dict) else {"jpg": one}
        body = own.get("jpg")
        row: dict[str, object] = {
            "key": f"{part:05d}{at:05d}",
            "url": f"http://h/{part}-{at}.jpg",
            "caption": f"text {part} {at}",
        }
        row |= {"status": "success", "sha256": hashlib.sha256(body).hexdigest() if body else None}
        rows.append(row | own)
    write_parquet(folder / f"part-{part:05d}.parquet", rows_to_table(rows, IMAGES), IMAGES)
    return folder


def grouped(images: Path, out: Path, **settings: Any) -> list[dict[str, Any]]:
    config = DuplicatesConfig(**settings)
    hashes = out.with_name(f"{out.name}-hashes")
    if config.near:
        hash_pictures(hashes, images, ray=HERE)
    counts = group_pictures(out, images, hashes if config.near else None, config=config, ray=HERE)
    rows = [row for file in parquet_files(out) for row in read_parquet(file).to_pylist()]
    assert counts["duplicates"] == sum(row["duplicate_of"] is not None for row in rows)
    return rows


def first_of(rows: list[dict[str, Any]], column: str = "duplicate_of") -> list[int | None]:
    return [None if row[column] is None else int(row[column]) for row in rows]


A, B, C = (jpeg(scene(seed)) for seed in range(3))


def test_the_same_bytes_and_the_same_url_and_text_are_one_group(tmp_path: Path) -> None:
    same = {"caption": "a cat"}
    images = write_images(tmp_path / "images", [
        A, B, {"jpg": A}, {"jpg": None, "status": "failed_to_download"},
        {"jpg": C, "url": "HTTP://Site.org:80/x?b=1&a=2#top", **same},
        {"jpg": jpeg(scene(4)), "url": "http://site.org/x?b=1&a=2", **same},
        {"jpg": jpeg(scene(5)), "url": "http://site.org/x?a=2&b=1", **same},
        {"jpg": jpeg(scene(6)), "url": "http://site.org/X?b=1&a=2", **same},
        {"jpg": jpeg(scene(7)), "url": "http://site.org:8080/x?b=1&a=2", **same},
        {"jpg": jpeg(scene(8)), "url": "http://site.org/x?b=1&a=2", "caption": "a dog"},
        {"jpg": jpeg(scene(9)), "url": "http://me:Pass@site.org", **same},
        {"jpg": jpeg(scene(10)), "url": "http://me:pass@site.org", **same},
        {"jpg": jpeg(scene(11)), "url": "https://b.org:443", **same},
        {"jpg": jpeg(scene(12)), "url": "https://B.org/", **same},
    ])  # fmt: skip
    rows = grouped(images, tmp_path / "groups")
    assert first_of(rows) == [None, None, 0, None, None, 4, None, None, None, None, None, None, None, 12]
    assert first_of(rows, "exact_group") == [0, 1, 0, None, 4, 4, 6, 7, 8, 9, 10, 11, 12, 12]
    assert {row["near_group"] for row in rows} == {None}
    off = grouped(images, tmp_path / "off", exact=False)
    assert {value for row in off for name, value in row.items() if name != "key"} == {None}


def test_a_row_is_with_the_first_that_it_equals_and_joins_no_two_groups(tmp_path: Path) -> None:
    same = {"url": "http://a/b", "caption": "c"}
    images = write_images(tmp_path / "images", [A, B, {"jpg": A, **same}, {"jpg": B, **same}, {"jpg": C, **same}, C])
    assert first_of(grouped(images, tmp_path / "groups")) == [None, None, 0, 1, 0, 0]


def test_what_looks_alike_is_one_group_and_flat_pictures_are_not(tmp_path: Path) -> None:
    image = scene(0)
    flat = [jpeg(Image.new("RGB", (256, 256), (shade, shade, 250))) for shade in (10, 10, 200)]
    images = write_images(tmp_path / "images", [
        B, A, jpeg(image, 30), jpeg(image.resize((160, 160))), jpeg(image.crop((1, 1, 255, 255))), C,
        {"jpg": b"no picture"}, flat[0], flat[2], flat[1],
    ])  # fmt: skip
    rows = grouped(images, tmp_path / "groups", near=True)
    assert first_of(rows) == [None, None, 1, 1, 1, None, None, None, None, 7]
    assert first_of(rows, "exact_group") == [0, 1, 2, 3, 4, 5, 6, 7, 8, 7]
    assert first_of(rows, "near_group") == [0, 1, 1, 1, 1, 5, 6, 7, 8, 7]
    assert all(0 < row["near_distance"] <= 31 for row in rows[3:5])
    assert [row["near_distance"] for row in rows[:2]] == [0, 0]
    assert first_of(grouped(images, tmp_path / "strict", near=True, near_radius=0))[4] is None


def test_groups_are_stars_and_no_chains(tmp_path: Path) -> None:
    """Each hash is 20 bits from the next: the third is 40 from the first, and begins a star of its own."""
    rng = np.random.default_rng(0)
    first, order = rng.integers(0, 2, 256, dtype=np.uint8), rng.permutation(256)
    chain = []
    for step in range(6):
        bits = first.copy()
        bits[order[: 20 * step]] ^= 1
        chain.append(np.packbits(bits).tobytes())
    rows = from_hashes(tmp_path, chain)
    assert first_of(rows) == [None, 0, None, 2, None, 4]
    assert [row["near_distance"] for row in rows] == [0, 20, 0, 20, 0, 20]
    assert first_of(from_hashes(tmp_path / "more", [chain[0], chain[5], chain[0], chain[1]])) == [None, None, 0, 0]


def from_hashes(folder: Path, hashes: list[bytes]) -> list[dict[str, Any]]:
    """The groups of pictures that have these hashes."""
    images = write_images(folder / "images", [f"picture {at}".encode() for at in range(len(hashes))])
    known = [{"key": f"{at:010d}", "pdq": pdq, "quality": 100} for at, pdq in enumerate(hashes)]
    write_parquet(folder / "hashes/part-00000.parquet", rows_to_table(known, PICTURE_HASHES), PICTURE_HASHES)
    config = DuplicatesConfig(near=True)
    group_pictures(folder / "groups", images, folder / "hashes", config=config, ray=HERE)
    return list(read_parquet(folder / "groups/part-00000.parquet").to_pylist())


def planted(rng: np.random.Generator, count: int, apart: int) -> tuple[list[bytes], list[bytes]]:
    """Random hashes, and for each one that differs in `apart` bits."""
    bits = rng.integers(0, 2, (count, 256), dtype=np.uint8)
    others = bits.copy()
    for row in others:
        row[rng.choice(256, apart, replace=False)] ^= 1
    return tuple([np.packbits(row).tobytes() for row in one] for one in (bits, others))  # type: ignore[return-value]


@pytest.mark.parametrize(("apart", "least"), [(0, 1.0), (15, 1.0), (31, 0.85)])
def test_every_pair_within_15_bits_is_found_and_most_within_31(apart: int, least: float) -> None:
    left, right = planted(np.random.default_rng(1), 400, apart)
    words = to_words([*left, *right])
    found = [
        (int(a), int(b), int(d))
        for band in range(16)
        for pairs in pairs_in_band(words, band, 31)
        for a, b, d in zip(pairs.left, pairs.right, pairs.distance, strict=True)
    ]
    assert len(found) == len({*found}) >= least * 400  # no pair twice
    assert {(min(a, b) + 400, d) for a, b, d in found} == {(max(a, b), apart) for a, b, _ in found}
    between = {
        (int(a), int(b)) for pairs in pairs_between(words[:400], words[400:], 31)
        for a, b in zip(pairs.left, pairs.right, strict=True)
    }  # fmt: skip
    assert between == {(at, at) for at in range(400)}  # exact up to 31
    assert not any(len(pairs.left) for pairs in pairs_between(words[:400], words[400:], apart - 1)) if apart else True


def test_pairs_are_those_of_every_hash_beside_every_other() -> None:
    rng = np.random.default_rng(2)
    base = rng.integers(0, 2, (12, 256), dtype=np.uint8)
    bits = base[rng.integers(0, 12, 300)] ^ (rng.random((300, 256)) < 0.02)
    words = to_words([np.packbits(row).tobytes() for row in bits.astype(np.uint8)])
    for radius in (3, 9, 15):
        found = {
            (min(a, b), max(a, b)): d
            for band in range(16)
            for pairs in pairs_in_band(words, band, radius)
            for a, b, d in zip(pairs.left.tolist(), pairs.right.tolist(), pairs.distance.tolist(), strict=True)
        }
        every = {
            (a, b): int(d)
            for a in range(300)
            for b, d in enumerate(distances(words[a][None], words), 0)
            if a < b and d <= radius
        }
        assert found == every


def test_a_row_added_later_changes_no_group_and_a_removed_first_hands_on(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", [A, B, A])
    before = grouped(images, tmp_path / "before", near=True)
    write_images(images, [B, jpeg(scene(0), 40), C], part=1)
    after = grouped(images, tmp_path / "after", near=True)
    assert after[:3] == before
    assert first_of(after[3:]) == [1, 0, None]
    old, new = (tmp_path / one / "part-00000.parquet" for one in ("before", "after"))
    assert old.read_bytes() == new.read_bytes()  # so that pairs of old parts are made of the same
    write_left_out(images, {"part-00000.parquet": {"removed": [(0, 0)]}})
    assert first_of(grouped(images, tmp_path / "removed", near=True)) == [None, None, None, 1, 2, None]


def test_rows_of_one_url_are_no_duplicates_of_each_other(tmp_path: Path) -> None:
    first = f"{0:010d}"
    images = write_images(tmp_path / "images", [A, {"jpg": A, "same_as": first}, B, A])
    rows = grouped(images, tmp_path / "groups")
    assert first_of(rows) == [None, None, None, 0]
    images = write_images(tmp_path / "later", [A, A, {"jpg": A, "same_as": f"{1:010d}"}])
    assert first_of(grouped(images, tmp_path / "of-later")) == [None, 0, 0]
    write_left_out(tmp_path / "later", {"part-00000.parquet": {"removed": [(0, 1)]}})
    assert first_of(grouped(images, tmp_path / "of-removed")) == [None, None, None]


def write_captions(folder: Path, images: Path) -> Path:
    for file in parquet_files(images):
        rows = [
            {"key": row["key"], "source": source, "candidate": 0, "caption": f"{source} {row['caption']}",
             "itm_score": score, "itc_score": score, "num_tokens": 5, "flags": []}
            for row in read_parquet(file, ["key", "caption", "status"]).to_pylist() if row["status"] == "success"
            for source, score in (("web", 0.2), ("synthetic", 0.9))
        ]  # fmt: skip
        write_parquet(folder / file.name, rows_to_table(rows, CAPTIONS), CAPTIONS)
    return folder


RULES: list[dict[str, Any]] = [
    {}, {"strategy": "best_per_image"}, {"strategy": "fraction", "keep_fraction": 0.5, "score": "itc"},
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_texts_of_duplicates_are_pairs_with_that_reason_unjudged(tmp_path: Path, rule: dict[str, Any]) -> None:
    images = write_images(tmp_path / "images", [A, B, A])
    write_images(images, [{"jpg": None, "status": "failed_to_download"}, B], part=1)
    grouped(images, tmp_path / "groups")
    captions = write_captions(tmp_path / "captions", images)
    write_left_out(captions, {"part-00001.parquet": {"removed": [(0, 0)]}})
    counts = select_pairs(tmp_path / "pairs", captions, tmp_path / "groups", config=SelectConfig(**rule))
    assert counts["rows"] == 8
    assert counts["dropped_duplicate_picture"] == 4
    pairs = [row for file in parquet_files(tmp_path / "pairs") for row in read_parquet(file).to_pylist()]
    alone = write_captions(tmp_path / "alone", write_images(tmp_path / "two", [A, B]))
    select_pairs(tmp_path / "alone-pairs", alone, config=SelectConfig(**rule))
    wanted = read_parquet(tmp_path / "alone-pairs/part-00000.parquet").to_pylist()
    assert pairs[:4] == wanted  # the rule as if the duplicates were not there
    assert {row["reason"] for row in pairs[4:]} == {"duplicate_picture"}
    assert {row["rejected"] for row in pairs[4:]} == {None}
    assert [row["itm_score"] for row in pairs[4:6]] == pytest.approx([0.2, 0.9])
    counts = take_web_pairs(tmp_path / "web", images, tmp_path / "groups")
    assert {name: counts[name] for name in ("rows", "kept", "dropped_duplicate_picture")} == {
        "rows": 4, "kept": 2, "dropped_duplicate_picture": 2,
    }  # fmt: skip


def write_annotated(folder: Path, bodies: list[bytes]) -> Path:
    rows: list[dict[str, Any]] = [
        {"key": f"h{at}", "name": f"{at}.jpg", "captions": ["text"], "status": "success", "jpg": body,
         "sha256": hashlib.sha256(body).hexdigest()}
        for at, body in enumerate(bodies)
    ]  # fmt: skip
    write_parquet(folder / "part-00000.parquet", rows_to_table(rows, ANNOTATED), ANNOTATED)
    return folder


def test_what_looks_like_a_held_out_or_human_picture_is_left_out_and_counted(tmp_path: Path) -> None:
    flat = jpeg(Image.new("RGB", (256, 256), (9, 9, 9)))
    images = write_images(tmp_path / "images", [A, jpeg(scene(1), 30), C, jpeg(scene(3).resize((200, 200))), flat])
    human = write_annotated(tmp_path / "human", [jpeg(scene(3)), jpeg(scene(9))])
    held_out = write_annotated(tmp_path / "held_out", [A, B, jpeg(scene(9), 40), jpeg(scene(20))])
    sets = {"images": images, "human": human, "held_out": held_out}
    for name, folder in sets.items():
        hash_pictures(tmp_path / f"{name}-hashes", folder, ray=HERE)
    looks = [tmp_path / f"{name}-hashes" for name in sets]
    out = tmp_path / "same"
    counts = find_same_pictures(out, *sets.values(), *looks, config=FindSamePicturesConfig(near_radius=31))
    assert counts == {
        "held_out_in_human": 1, "held_out_in_web": 2, "human_in_web": 1, "near_held_out_in_human": 1,
        "near_held_out_in_web": 1, "near_human_in_web": 1, "left_out_web": 3, "left_out_human": 1,
    }  # fmt: skip
    rows = [row for name in ("human", "part-00000") for row in read_parquet(out / f"{name}.parquet").to_pylist()]
    found = {(row["set"], row["key"], row["same_key"]): row["distance"] for row in rows}
    assert {one: distance is None for one, distance in found.items()} == {
        ("human", "h1", "h2"): False, ("web", "0000000000", "h0"): True, ("web", "0000000001", "h1"): False,
        ("web", "0000000003", "h0"): False,
    }  # fmt: skip
    left_out = read_left_out_pictures(out)
    assert left_out.web == {"0000000000", "0000000001", "0000000003"}
    assert left_out.human == {"h1"}
    exact = find_same_pictures(tmp_path / "exact", *sets.values(), config=FindSamePicturesConfig())
    assert {name: number for name, number in exact.items() if number} == {"held_out_in_web": 1, "left_out_web": 1}
