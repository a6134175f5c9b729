"""The vision start: it learns classes, transformers and `vision.start` read it, and bad files are refused."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from blip_bootstrap.errors import CheckpointError, InputError
from blip_training.checkpoint.fresh import new_med
from blip_training.train.vision_start import train_vision_start
from tests.support.drawn import COLOURS, SHAPES, draw, model_config
from tests.support.tiny_med import normalised_of


def write_labelled(path: Path, count: int) -> Path:
    rng, names = random.Random(1), [*COLOURS, *SHAPES]
    rows = []
    for _ in range(count):
        scene = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        rows.append({"jpg": draw(*scene, rng), "labels": [int(name in scene) for name in names]})
    pq.write_table(pa.Table.from_pylist(rows, pa.schema([("jpg", pa.binary()), ("labels", pa.list_(pa.int8()))])), path)
    return path


def test_it_learns_the_classes_and_starts_a_model(world: Path, tmp_path: Path) -> None:
    config = model_config(world)
    labelled = write_labelled(tmp_path / "labelled.parquet", 240)
    counts = train_vision_start(tmp_path / "start", labelled, config.vision, steps=80, batch_size=32, lr=3e-3)
    assert counts["labels_right"] > 0.73  # two thirds by guessing
    vision = config.vision.model_copy(update={"start": str(tmp_path / "start")})
    med = new_med(config.model_copy(update={"vision": vision}), 30).eval()
    from transformers import ViTModel

    theirs = ViTModel.from_pretrained(tmp_path / "start", add_pooling_layer=False).eval()
    pixels = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        expected = theirs(normalised_of(med, pixels)).last_hidden_state
        torch.testing.assert_close(med.encode_image(pixels), expected, atol=2e-5, rtol=1e-4)
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        new_med(config.model_copy(update={"vision": vision.model_copy(update={"depth": 3})}), 30)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"jpg": [b""]}, "needs rows with columns jpg and labels"),
        ({"jpg": [], "labels": []}, "needs rows with columns"),
        ({"jpg": [b"", b""], "labels": [[0], [0, 1]]}, "labels are of different lengths"),
        ({"jpg": [b"broken"], "labels": [[0]]}, "row 0: the picture cannot be decoded"),
    ],
)
def test_another_format_is_refused(world: Path, tmp_path: Path, columns: dict[str, list[object]], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "labelled.parquet")
    with pytest.raises(InputError, match=message):
        train_vision_start(tmp_path / "start", tmp_path / "labelled.parquet", model_config(world).vision, steps=1)
