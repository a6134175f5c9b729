"""Small drawn data for the tests of training: coloured shapes in all tables, and a vocabulary."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

from blip_bootstrap.config import FinetuneConfig, ItcConfig, ModelConfig, OptimizerConfig, PretrainConfig
from blip_bootstrap.schemas.tables import ANNOTATED, IMAGES, PAIRS
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet
from blip_training.watch.pace import FIGURES

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "yellow": (230, 220, 30)}
SHAPES = ("circle", "square")
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a one there is it that , red green blue yellow circle square picture of"
SIZE = 32


def draw(colour: str, shape: str, rng: random.Random) -> bytes:
    image = Image.new("RGB", (SIZE, SIZE), (240, 240, 240))
    x, y, r = rng.randint(8, SIZE - 8), rng.randint(8, SIZE - 8), rng.randint(5, 8)
    pen = ImageDraw.Draw(image)
    (pen.ellipse if shape == "circle" else pen.rectangle)((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95)
    return stream.getvalue()


def write_world(root: Path, num_web: int = 60, num_human: int = 20, num_held_out: int = 16, num_parts: int = 3) -> Path:
    """images/ and pairs/ (two texts an image, some not kept), human/ and held_out/ (two captions each), vocab.txt."""
    rng = random.Random(0)
    for part in range(num_parts):
        images: list[dict[str, object]] = []
        pairs: list[dict[str, object]] = []
        for i in range(num_web // num_parts):
            colour, shape, key = rng.choice(list(COLOURS)), rng.choice(SHAPES), f"{part:05d}{i:05d}"
            images.append({"key": key, "status": "success", "jpg": draw(colour, shape, rng)})
            for source, text in (("web", f"a {colour} {shape}"), ("synthetic", f"one {shape} that is {colour}")):
                pair = {"key": key, "source": source, "candidate": 0, "caption": text}
                pairs.append(pair | {"kept": rng.random() < 0.7})
        name = f"part-{part:05d}.parquet"
        write_parquet(root / "images" / name, rows_to_table(images, IMAGES), IMAGES)
        write_parquet(root / "pairs" / name, rows_to_table(pairs, PAIRS), PAIRS)
    for name, count in (("human", num_human), ("held_out", num_held_out)):
        write_annotated(root / name, count, rng)
    (root / "vocab.txt").write_text("\n".join(WORDS.split()) + "\n")
    return root


def write_annotated(folder: Path, count: int, rng: random.Random) -> None:
    """Every eight pictures show the eight scenes that there are."""
    rows: list[dict[str, object]] = []
    for i in range(count):
        colour, shape = list(COLOURS)[i % 4], SHAPES[i // 4 % 2]
        texts = [f"a {colour} {shape}", f"there is a {shape}, it is {colour}"]
        row = {"key": f"{i:010d}", "name": f"{i}.jpg", "domain": ("in", "near")[i % 2], "captions": texts}
        rows.append(row | {"status": "success", "jpg": draw(colour, shape, rng)})
    rows.append({"key": "broken", "name": "broken.jpg", "captions": ["a circle"], "status": "failed_to_resize"})
    write_parquet(folder / "part-00000.parquet", rows_to_table(rows, ANNOTATED), ANNOTATED)


def model_config(root: Path) -> ModelConfig:
    """Width 32, no dropout."""
    return ModelConfig.model_validate(
        {
            "vision": {"image_size": SIZE, "patch_size": 8, "width": 32, "depth": 2, "heads": 4},
            "text": {
                "tokenizer": str(root / "vocab.txt"), "width": 32, "depth": 1, "heads": 4, "intermediate": 64,
                "max_tokens": 14, "max_positions": 24, "dropout": 0.0,
            },
            "embed_dim": 16,
        }
    )  # fmt: skip


def optimizer_config(**changes: object) -> OptimizerConfig:
    base = {"steps": 8, "batch_size": 16, "lr": 2e-3, "warmup_steps": 2, "device": "cpu", "log_every_steps": 1}
    return OptimizerConfig.model_validate(base | {"threads": 1} | changes)


def pretrain_config(root: Path, **changes: object) -> PretrainConfig:
    """Optimizer settings by keyword."""
    return PretrainConfig(
        model=model_config(root),
        optimizer=optimizer_config(**changes),
        itc=ItcConfig(queue_size=40, alpha_ramp_steps=4, momentum=0.98),
        augment="none",
    )


def finetune_config(**changes: object) -> FinetuneConfig:
    """Optimizer settings by keyword."""
    return FinetuneConfig(optimizer=optimizer_config(**changes), itc=ItcConfig(queue_size=0), augment="none")


def read_log(out: Path, *names: str) -> list[dict[str, float]]:
    """The lines of a training's metrics.jsonl without the clock; only `names` where given."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in FIGURES and (not names or k in names)} for line in lines]
