"""What pre-training costs, measured by a few steps of the configured model on a sample."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pyarrow as pa

from blip_bootstrap.config import Config, PretrainConfig
from blip_bootstrap.plan import Cost
from blip_bootstrap.select import take_web_pairs
from blip_bootstrap.tables import IMAGES, write_parquet
from blip_pipelines.launch_training import pretrain
from blip_pipelines.plan_sample import peak_bytes

STEPS, MOST_IMAGES = 4, 16
"""Steps that are timed, the first left out, and the images of each: the rate of a larger batch is little better."""


def measure_training(config: Config, rows: pa.Table, scratch: Path) -> Cost:
    """The cost of `pretrain.optimizer.steps` steps, by the samples per second of a few small ones."""
    optimizer = config.pretrain.optimizer
    images, pairs, out = scratch / "train_images", scratch / "train_pairs", scratch / "model"
    write_parquet(images / "part-00000.parquet", rows, IMAGES)
    for folder in (pairs, out):
        folder.mkdir()
    take_web_pairs(pairs, images)
    pretrain(out, images, pairs, None, config=_short(config.pretrain, len(rows)), ray=config.ray)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    samples_per_s = statistics.median(line["samples_per_s"] for line in lines[1:])
    return Cost(
        "pretrain", 0, 0, 0.0, "model",
        fixed_s=optimizer.steps * optimizer.batch_size / samples_per_s,
        fixed_bytes=(out / "model.safetensors").stat().st_size,
        num_workers=config.pretrain.num_workers,
        worker_bytes=peak_bytes(),
        scales=False,
    )  # fmt: skip


def _short(config: PretrainConfig, num_images: int) -> PretrainConfig:
    """The same model and losses for a few steps of few images."""
    optimizer = config.optimizer
    batch_size = max(config.num_workers, min(optimizer.batch_size, MOST_IMAGES, num_images))
    few = {"steps": STEPS, "batch_size": batch_size, "accumulate": 1, "warmup_steps": 0, "log_every_steps": 1}
    return config.model_copy(
        update={"optimizer": optimizer.model_copy(update=few), "human_share": 0.0, "start_from": "scratch"}
    )
