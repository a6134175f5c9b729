"""A small finished run of two rounds, as the steps leave it, without running them."""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.report.figures import write_figures
from blip_bootstrap.schemas import schema, shown_tables, tables
from blip_bootstrap.select.pairs import select_pairs, take_web_pairs
from blip_bootstrap.storage import parquet

COLOURS = {"red": "#d33", "green": "#2a2", "blue": "#36c", "yellow": "#ec3"}
SHAPES = ("circle", "square")
ROWS_PER_PART, PARTS = 40, 2


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds over 80 rows of drawn pictures; the truth of the web texts is known. Read only: tests share it."""
    root = tmp_path_factory.mktemp("run")
    make_run(root)
    return root


def make_run(root: Path) -> None:
    """Write the run; the same bytes every time."""
    rng = random.Random(7)
    things = [(rng.choice(list(COLOURS)), rng.choice(SHAPES)) for _ in range(ROWS_PER_PART * PARTS)]
    kinds = [rng.choice(["clean", "clean", "mismatch"]) for _ in things]
    write_images(root / "images", things, kinds, rng)
    write_groups(root / "groups")
    lines = [f"{i:03d}.jpg\t{kind}" for i, kind in enumerate(kinds)]
    (root / "truth.tsv").write_text("\n".join(["image\tkind", *lines]) + "\n")
    for number in (0, 1):
        write_round(root, number, things, kinds, rng)


def write_images(folder: Path, things: list[tuple[str, str]], kinds: list[str], rng: random.Random) -> None:
    folder.mkdir(parents=True)
    for part in range(PARTS):
        rows = []
        for at in range(ROWS_PER_PART):
            index = part * ROWS_PER_PART + at
            told = f"a {' '.join(things[index])}"
            if kinds[index] != "clean":
                told = f"a {rng.choice(list(COLOURS))} boat with 2 women"
            rows.append(image_row(part, at, index, told, things[index]))
        rows[3] |= {"status": "failed_to_download", "error_class": "http_4xx", "error_message": "404", "jpg": None}
        rows[7] |= {"x_robots_tag": "noai", "extra": '{"license": "CC-BY"}'}
        rows[4] |= {"caption": " " if part else rows[4]["caption"]}
        write_part(folder / f"part-{part:05d}.parquet", rows, tables.IMAGES)
    write_manifest(folder, "images", "download_images", {"rows": ROWS_PER_PART * PARTS}, {"timeout_s": 10.0})


def write_groups(folder: Path) -> None:
    """The groups of the pictures: two of part 0 are there already, by their bytes and by their looks."""
    folder.mkdir(parents=True)
    for part in range(PARTS):
        rows: list[dict[str, Any]] = []
        for at in range(ROWS_PER_PART):
            key = f"{part:05d}{at:05d}"
            rows.append({"key": key, "exact_group": key, "near_group": key, "near_distance": 0, "duplicate_of": None})
        if part == 0:
            rows[5] |= {"exact_group": rows[0]["key"], "near_group": rows[0]["key"], "duplicate_of": rows[0]["key"]}
            rows[6] |= {"near_group": rows[1]["key"], "near_distance": 9, "duplicate_of": rows[1]["key"]}
        write_part(folder / f"part-{part:05d}.parquet", rows, tables.PICTURE_GROUPS)
    counts = {"pictures": ROWS_PER_PART * PARTS, "exact_duplicates": 1, "near_duplicates": 1, "duplicates": 2}
    write_manifest(folder, "groups", "group_pictures", counts, {"near": True})


def image_row(part: int, at: int, index: int, text: str, thing: tuple[str, str]) -> dict[str, Any]:
    url = f"http://127.0.0.1:9/pictures/{index:03d}.jpg?size=1"
    jpg = drawn(thing)
    return {
        "key": f"{part:05d}{at:05d}", "uid": hashlib.sha256(f"{url} {text}".encode()).hexdigest()[:32],
        "dataset": "drawn", "url": url, "caption": text, "status": "success", "error_class": None,
        "error_message": None, "width": 48, "height": 48, "original_width": 48, "original_height": 48, "exif": None,
        "sha256": hashlib.sha256(jpg).hexdigest(), "jpg": jpg,
    }  # fmt: skip


def drawn(thing: tuple[str, str]) -> bytes:
    picture = Image.new("RGB", (48, 48), "#eee")
    draw = ImageDraw.Draw(picture)
    (draw.ellipse if thing[1] == "circle" else draw.rectangle)((10, 10, 38, 38), fill=COLOURS[thing[0]])
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=80)
    return out.getvalue()


def write_round(root: Path, number: int, things: list[tuple[str, str]], kinds: list[str], rng: random.Random) -> None:
    folder = root / f"round-{number:02d}"
    name, pairs = folder.name, folder / "pairs"
    pairs.mkdir(parents=True)
    if number:
        write_captions(folder / "captions", things, kinds, rng)
        write_manifest(folder / "captions", f"{name}/captions", "caption_and_score", {}, {"candidates": 1})
        write_languages(root, folder / "captions")
        write_filter_check(folder / "filter_check", f"{name}/filter_check")
        counts = select_pairs(pairs, folder / "captions", config=SelectConfig())
        for arm in ("human_only", "filter_only"):
            write_json(folder / "controls" / arm / "metrics.json", {"cider": 0.8, "tr1": 0.4, "ir1": 0.5})
        write_manifest(folder / "controls", f"{name}/controls", "train_controls", {}, {"arms": ["human_only"]})
    else:
        counts = take_web_pairs(pairs, root / "images")
    write_manifest(pairs, f"{name}/pairs", "select_pairs", counts, SelectConfig().model_dump(mode="json"))
    write_curves(folder / "model" / "metrics.jsonl")
    write_manifest(folder / "model", f"{name}/model", "pretrain", {"steps": 200}, {"optimizer": {"lr": 0.001}})
    figures = {"cider": 1.0 + number, "bleu4": 0.3, "tr1": 0.5 + number / 10, "ir1": 0.4, "itm_auc": 0.9}
    figures |= {"tr1_in": 0.8, "tr1_near": 0.6, "tr1_out": 0.4, "cider_in": 2.0, "cider_near": 1.5, "cider_out": 0.5}
    write_json(folder / "evaluation" / "metrics.json", figures)
    write_manifest(folder / "evaluation", f"{name}/evaluation", "evaluate", figures, {})
    write_figures(root, number, root / "truth.tsv")


def write_captions(folder: Path, things: list[tuple[str, str]], kinds: list[str], rng: random.Random) -> None:
    folder.mkdir(parents=True)
    for part in range(PARTS):
        images = pq.read_table(root_images(folder) / f"part-{part:05d}.parquet").to_pylist()
        rows = []
        for at, image in enumerate(images):
            index = part * ROWS_PER_PART + at
            if image["status"] != "success":
                continue
            written = f"a {things[index][0]} {rng.choice(SHAPES)}"
            right = kinds[index] == "clean"
            rows.append(caption_row(image["key"], "web", image["caption"].strip(), right, rng))
            rows.append(caption_row(image["key"], "synthetic", written, things[index][1] in written, rng))
        write_part(folder / f"part-{part:05d}.parquet", rows, tables.CAPTIONS)


def write_languages(root: Path, captions: Path) -> None:
    """As `audit languages` leaves them, without looking at the texts."""
    part = pq.read_table(captions / "part-00000.parquet").to_pylist()
    told = ("round", "key", "source", "candidate", "caption", "language", "confidence")
    rows = [row | {"round": 1, "language": "en", "confidence": 0.2 + at / 100} for at, row in enumerate(part)]
    path = root / "languages" / "round-01.parquet"
    write_part(path, [{name: row[name] for name in told} for row in rows if row["caption"]], shown_tables.LANGUAGES)


def write_filter_check(folder: Path, name: str) -> None:
    """Thirty pictures with human captions: ITM tells web texts well and synthetic ones hardly, ITC both."""
    rng, rows = random.Random(3), []
    empty = dict.fromkeys(tables.FILTER_CHECK.schema.names)
    for at in range(30):
        for kind, candidate, fits in (("human", 0, True), ("other", 1, False), ("synthetic", 0, at % 3 > 0)):
            source = "synthetic" if kind == "synthetic" else "web"
            itm = rng.gauss(0.7 if fits else 0.2, 0.2) if source == "web" else rng.random()
            rows.append(empty | {
                "key": f"{at:010d}", "name": f"{at}.jpg", "kind": kind, "source": source, "candidate": candidate,
                "caption": f"a text {at}", "fits": fits, "human_agreement": 0.8 if fits else 0.1, "num_tokens": 6,
                "itm_score": min(1, max(0, itm)), "itc_score": rng.gauss(0.5 if fits else 0.2, 0.1), "flags": [],
            })  # fmt: skip
    write_part(folder / "part-00000.parquet", rows, tables.FILTER_CHECK)
    write_manifest(folder, name, "check_filter", {"pictures": 30, "texts": 90}, {"pictures": 300})


def root_images(captions: Path) -> Path:
    return captions.parent.parent / "images"


def caption_row(key: str, source: str, text: str, right: bool, rng: random.Random) -> dict[str, Any]:
    score = 1 / (1 + math.exp(-rng.gauss(2 if right else -2, 1.5)))
    written = source == "synthetic"
    return {
        "key": key, "source": source, "candidate": 0, "caption": text, "itm_score": score if text else None,
        "itc_score": score / 2 if text else None, "logprob": -3.0 if written else None, "num_tokens": 7,
        "flags": ["repetition"] if written and rng.random() < 0.05 else [], "seed": 1 if written else None,
    }  # fmt: skip


def write_part(path: Path, rows: list[dict[str, Any]], table: schema.Table) -> None:
    parquet.write_parquet(path, parquet.rows_to_table(rows, table), table)


def write_curves(path: Path) -> None:
    path.parent.mkdir(parents=True)
    lines = [
        {"step": step, "loss": 3 * math.exp(-step / 80) + 1, "itc": math.exp(-step / 60), "itm": 0.64, "lm": 0.5,
         "lr": 1e-3 * (1 - step / 200)}
        for step in range(0, 201, 20)
    ]  # fmt: skip
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_manifest(folder: Path, name: str, step: str, counts: dict[str, Any], settings: dict[str, Any]) -> None:
    files = [{"name": p.name, "bytes": p.stat().st_size, "sha256": "0" * 64} for p in sorted(folder.glob("part-*"))]
    write_json(
        folder / "MANIFEST.json",
        {"name": name, "digest": "d" * 64, "content": "c" * 64, "made": "2026-01-02T03:04:05+00:00", "seconds": 1.5,
         "version": "0.1.0", "settings": settings, "counts": counts, "files": files,
         "recipe": {"step": step, "config": settings, "inputs": {"images": "a" * 64}}},
    )  # fmt: skip
