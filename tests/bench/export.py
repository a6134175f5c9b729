"""Webdataset shards by `export`, beside a loop that writes the same members with webdataset's own TarWriter.

    .venv/bin/python tests/bench/export.py [--json] [--pictures 20000] [--parts 4] [--kilobytes 40]

A round of random pictures (bytes that no compression makes smaller) with two texts each, of which about three of four
are kept, is exported by `export_round` in this process: tables read and joined, members written, hashed, synced, noted.
The loop reads the same tables by the same functions, since any other would be slower, and gives each member as bytes to
`webdataset.TarWriter`; it neither hashes nor syncs. A second loop has all members in memory, and does nothing but write
them. The three take turns, three rounds; every member is compared once. Printed: pictures a second of each, and
`ratio_tarwriter`, the export's over the loop's, by the medians; with --json the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1"}
sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in (".", "training", "pipelines")]

import webdataset  # noqa: E402

from blip_bootstrap.config import RayConfig, SelectConfig  # noqa: E402
from blip_bootstrap.schemas.keys import key_of, part_name  # noqa: E402
from blip_bootstrap.schemas.tables import CAPTIONS, IMAGES  # noqa: E402
from blip_bootstrap.select.pairs import select_pairs  # noqa: E402
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet  # noqa: E402
from blip_pipelines.export.documents import documents, encode  # noqa: E402
from blip_pipelines.export.export import Wanted, export_round  # noqa: E402
from blip_pipelines.export.joined import ABOUT_PICTURES, PICTURE, batches, read_texts  # noqa: E402
from blip_pipelines.export.place import Place  # noqa: E402
from blip_pipelines.export.source import Ledger, Source  # noqa: E402

ROUNDS = 3

WORDS = (
    "a",
    "red",
    "small",
    "boat",
    "dog",
    "on",
    "table",
    "with",
    "two",
    "people",
    "in",
    "front",
    "of",
    "an",
    "open",
    "sea",
)

Member = dict[str, Any]


def make_round(root: Path, pictures: int, parts: int, kilobytes: int) -> Source:
    """Tables of images, captions and pairs, as the steps leave them."""
    rng, each = random.Random(0), pictures // parts
    for part in range(parts):
        rows = [_picture(rng, part, at, kilobytes) for at in range(each)]
        write_parquet(root / "images" / part_name(part), rows_to_table(rows, IMAGES), IMAGES)
        texts = [_text(rng, row["key"], source) for row in rows for source in ("web", "synthetic")]
        write_parquet(root / "captions" / part_name(part), rows_to_table(texts, CAPTIONS), CAPTIONS)
    (root / "pairs").mkdir()
    select_pairs(root / "pairs", root / "captions", config=SelectConfig(itm_threshold=0.3))
    return Source(root / "images", root / "pairs", root / "captions", "itm_score")


def _picture(rng: random.Random, part: int, at: int, kilobytes: int) -> dict[str, Any]:
    return {
        "key": key_of(part, at), "uid": f"{rng.getrandbits(128):032x}", "dataset": "drawn",
        "url": f"https://pictures.example/{part}/{at}.jpg", "caption": "", "status": "success", "width": 256,
        "height": 256, "original_width": 640, "original_height": 480, "exif": "{}",
        "sha256": f"{rng.getrandbits(256):064x}",
        "jpg": rng.randbytes(int(kilobytes * 1000 * rng.uniform(0.5, 1.5))),
    }  # fmt: skip


def _text(rng: random.Random, key: str, source: str) -> dict[str, Any]:
    return {
        "key": key, "source": source, "candidate": 0, "caption": " ".join(rng.choices(WORDS, k=9)),
        "itm_score": rng.random(), "itc_score": rng.random(), "logprob": -20 * rng.random(), "num_tokens": 11,
        "flags": [], "seed": 1, "captioner": "drawn" if source == "synthetic" else None,
    }  # fmt: skip


def by_export(source: Source, out: Path) -> None:
    export_round(source, Ledger("bench", 1), Place(str(out)), Wanted("webdataset"), RayConfig(address="none"))


def by_loop(source: Source, out: Path) -> None:
    out.mkdir()
    for part in source.parts():
        with webdataset.TarWriter(str(out / f"{part.name}.tar"), encoder=False) as tar:
            for one in members(source, part):
                tar.write(one)


def members(source: Source, part: Any) -> Iterator[Member]:
    for batch in batches(part, read_texts(part, source, False), (*ABOUT_PICTURES, PICTURE)):
        for told, jpg in zip(documents(batch), batch.pictures, strict=True):
            text, whole = told["caption"].encode(), encode(told).encode()
            yield {"__key__": told["key"], "jpg": jpg, "txt": text, "json": whole}


def by_writing(held: list[Member], out: Path) -> None:
    out.mkdir()
    with webdataset.TarWriter(str(out / "all.tar"), encoder=False) as tar:
        for one in held:
            tar.write(one)


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found = [(one.name, tar.extractfile(one)) for one in tar]
            yield from sorted((name, file.read()) for name, file in found if file)


def timed(work: Callable[[Path], None], out: Path) -> float:
    shutil.rmtree(out, ignore_errors=True)
    os.sync()  # what was written before is no part of what is measured
    began = time.perf_counter()
    work(out)
    return time.perf_counter() - began


def measure(folder: Path, pictures: int, parts: int, kilobytes: int) -> dict[str, Any]:
    source = make_round(folder / "run", pictures, parts, kilobytes)
    held = [one for part in source.parts() for one in members(source, part)]
    ways: dict[str, Callable[[Path], None]] = {
        "export": lambda out: by_export(source, out),
        "loop": lambda out: by_loop(source, out),
        "writing_alone": lambda out: by_writing(held, out),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, work in ways.items():
            seconds[name].append(timed(work, folder / name))
    for mine, theirs in zip(contents(folder / "export"), contents(folder / "loop"), strict=True):
        assert mine == theirs, f"{mine[0]} and {theirs[0]} differ"
    rates = {name: len(held) / statistics.median(each) for name, each in seconds.items()}
    return {
        "pictures": len(held), "parts": parts, "kilobytes": kilobytes,
        **{f"{name}_pictures_s": round(rate) for name, rate in rates.items()},
        **{f"{name}_seconds": [round(one, 2) for one in each] for name, each in seconds.items()},
        "ratio_tarwriter": round(rates["export"] / rates["loop"], 2),
        "ratio_tarwriter_writing_alone": round(rates["export"] / rates["writing_alone"], 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--kilobytes", type=int, default=40, help="mean size of a picture")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="blip-bootstrap-bench-") as folder:
        found = measure(Path(folder), asked.pictures, asked.parts, asked.kilobytes)
    for name, value in found.items():
        print(f"{name:32} {value}")
    if asked.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
