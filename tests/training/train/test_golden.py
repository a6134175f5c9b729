"""The loss curve of fifty steps on the built-in world, by the demo's own settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blip_bootstrap.config import PretrainConfig
from blip_bootstrap.demo.settings import demo_config
from blip_bootstrap.schemas.tables import ANNOTATED, IMAGES, PAIRS
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet
from blip_bootstrap.world.world import World, WorldConfig, make_world
from blip_training.train.pretrain import pretrain_model
from tests.support.drawn import read_log

SMALL = WorldConfig(
    num_web=300, num_human=40, num_held_out=1, num_validation=1, num_vision=0, manners={}, blank_share=0,
    duplicate_share=0,
)  # fmt: skip

GOLDEN = [
    (3.4690, 0.6755, 4.7714), (3.4647, 0.6413, 4.1284), (3.4433, 0.6371, 3.6396), (3.4220, 0.6369, 3.3454),
    (3.3998, 0.6365, 3.2630),
]  # fmt: skip


def write_tables(world: World, root: Path) -> None:
    """images/, pairs/ (round 0: every web text) and human/, as the steps before pre-training make them."""
    images: list[dict[str, object]] = []
    pairs: list[dict[str, object]] = []
    for number, line in enumerate(world.url_list.read_text(encoding="utf-8").splitlines()[1:]):
        url, text = line.split("\t")
        key, jpg = f"{number:010d}", (world.pictures / url.rsplit("/", 1)[1]).read_bytes()
        images.append({"key": key, "status": "success", "jpg": jpg})
        pairs.append({"key": key, "source": "web", "candidate": 0, "caption": text, "kept": True})
    humans: list[dict[str, object]] = []
    for number, line in enumerate((world.folder / "human.jsonl").read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        jpg = (world.folder / row["image"]).read_bytes()
        one = {"key": f"{number:010d}", "name": row["image"], "captions": row["captions"], "status": "success"}
        humans.append(one | {"domain": row["domain"], "jpg": jpg})
    for name, rows, table in (("images", images, IMAGES), ("pairs", pairs, PAIRS), ("human", humans, ANNOTATED)):
        write_parquet(root / name / "part-00000.parquet", rows_to_table(rows, table), table)


def test_the_curve_of_fifty_steps_is_the_golden_one(tmp_path: Path) -> None:
    """Means of ten steps each of ITC, ITM, LM; another processor rounds otherwise, another recipe is further off."""
    world = make_world(tmp_path / "world", SMALL)
    write_tables(world, tmp_path)
    demo = PretrainConfig.model_validate(demo_config(tmp_path, world)["pretrain"])
    changes = {"steps": 50, "warmup_steps": 10, "log_every_steps": 10, "threads": 1, "device": "cpu"}
    config = demo.model_copy(update={"optimizer": demo.optimizer.model_copy(update=changes)})
    (tmp_path / "out").mkdir()
    pretrain_model(tmp_path / "out", tmp_path / "images", tmp_path / "pairs", tmp_path / "human", config)
    curve = [(line["itc"], line["itm"], line["lm"]) for line in read_log(tmp_path / "out", "itc", "itm", "lm")]
    for found, expected in zip(curve, GOLDEN, strict=True):
        assert found == pytest.approx(expected, rel=0.02)
