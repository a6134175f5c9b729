"""The pictures and models that a plan is measured with: the user's own where there are any."""

from __future__ import annotations

import io
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.config import Config, FinetuneConfig
from blip_bootstrap.config.caption import MIN_TOKENS
from blip_bootstrap.schemas.keys import key_of_id
from blip_bootstrap.schemas.schema import Table
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, rows_to_table, write_parquet
from blip_bootstrap.storage.run_folder import MANIFEST, round_folder, round_numbers
from blip_bootstrap.world.scenes import draw_scene, sample_scene
from blip_bootstrap.world.wording import describe

DRAWN_PX = 256


@dataclass(frozen=True)
class Sample:
    """Downloaded rows of the table `images` to measure with, and where they are from, in words.

    `num_rows` rows of the URL lists were looked at for them, whose files take `size_bytes`; `success_share` of them
    were fetched.
    """

    rows: pa.Table
    origin: str
    num_rows: int
    size_bytes: int
    success_share: float


def stored_sample(folder: Path, count: int, origin: str) -> Sample:
    """The first `count` downloaded images of a folder of the table `images`."""
    files = parquet_files(folder)
    tables: list[pa.Table] = []
    num_rows, num_found, size_bytes = 0, 0, 0
    for file in files:
        table = read_parquet(file)
        fetched = table.filter(pc.equal(table["status"], "success"))
        tables.append(fetched.slice(0, count - sum(len(one) for one in tables)))
        num_rows, num_found, size_bytes = (
            num_rows + len(table),
            num_found + len(fetched),
            size_bytes + file.stat().st_size,
        )
        if num_found >= count:
            break
    return Sample(pa.concat_tables(tables), origin, num_rows, size_bytes, num_found / max(num_rows, 1))


def drawn_sample(folder: Path, count: int) -> Sample:
    """Drawn pictures of `DRAWN_PX` pixels, for where there is no URL list yet."""
    rng, empty = random.Random(0), dict.fromkeys(IMAGES.schema.names)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        scene, stream = sample_scene(rng, 1 + number % 3), io.BytesIO()
        draw_scene(scene, DRAWN_PX).save(stream, "JPEG", quality=95)
        known = {"key": key_of_id(number), "status": "success", "caption": describe(scene, rng)}
        rows.append(empty | known | {"jpg": stream.getvalue(), "width": DRAWN_PX, "height": DRAWN_PX})
    write_parquet(folder / "part-00000.parquet", rows_to_table(rows, IMAGES), IMAGES)
    return stored_sample(folder, count, "drawn pictures")


@dataclass(frozen=True)
class PlannedModels:
    """A captioner and a filter to measure with; `trained` is false where their weights are random."""

    captioner: str
    filter: str
    trained: bool


def find_models(config: Config, scratch: Path) -> PlannedModels:
    """The given models, else those of the newest round that has made them, else random ones of the configured size."""
    found = {name: _given_or_made(config.root, name, getattr(config, name)) for name in ("captioner", "filter")}
    sources = {name: source or str(_random_model(config, scratch / name)) for name, source in found.items()}
    return PlannedModels(**sources, trained=None not in found.values())


def _given_or_made(root: Path, name: str, section: FinetuneConfig) -> str | None:
    if section.checkpoint:
        return section.checkpoint
    folders = (round_folder(root, number) / name for number in round_numbers(root))
    made = [folder for folder in folders if (folder / MANIFEST).is_file()]
    return str(made[-1]) if made else None


def _random_model(config: Config, folder: Path) -> Path:
    from blip_training.checkpoint.fresh import new_med  # loads torch
    from blip_training.checkpoint.store import save_med  # loads torch
    from blip_training.data.tokenizer import Tokenizer  # loads torch

    tokenizer = Tokenizer.load(config.pretrain.model.text.tokenizer)
    save_med(folder, new_med(config.pretrain.model, tokenizer.num_tokens), tokenizer)
    return folder


def with_usual_length(config: Config, texts: list[str]) -> Config:
    """The configuration with captions cut at the mean length of `texts`: an untrained model does not end them."""
    from blip_training.data.tokenizer import Tokenizer  # loads torch

    tokenizer = Tokenizer.load(config.pretrain.model.text.tokenizer)
    longest = round(statistics.mean(len(tokenizer.piece_ids(text)) for text in texts)) if texts else 0
    longest += 2  # the token before them and the one that ends them
    data = config.model_dump()
    for name, prompt in (("caption", config.caption.prompt), ("evaluate", "")):
        sampler = data[name]["sampler"]
        least = MIN_TOKENS if sampler["min_tokens"] is None else sampler["min_tokens"]
        length = max(longest + len(tokenizer.piece_ids(prompt)), least + 1)
        sampler["max_tokens"] = min(length, sampler["max_tokens"] or length)
    return Config.model_validate(data)


def worded(captions: list[dict[str, Any]], texts: Sequence[str]) -> list[dict[str, Any]]:
    """The rows with one of `texts` after the other in place of what the captioner wrote; unchanged without texts."""
    if not texts:
        return captions
    following = cycle(texts)
    return [row if row["source"] == "web" else row | {"caption": next(following)} for row in captions]


def table_bytes(rows: list[dict[str, Any]], table: Table, num_images: int, images_per_file: int) -> float:
    """Bytes that the rows of one image take in Parquet files of `images_per_file` images, headers and footers too."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = []
        for number, some in enumerate(([], rows)):
            path = Path(folder) / f"{number}.parquet"
            write_parquet(path, rows_to_table(some, table), table)
            sizes.append(path.stat().st_size)
    return (sizes[1] - sizes[0]) / num_images + sizes[0] / images_per_file
