"""The demo's configuration: settings that were chosen on the world's validation pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blip_bootstrap.demo.world import World

WIDTH = 64
VISION_STEPS = 800
"""Steps of the vision start, at batch 128."""


def demo_config(root: Path, world: World, vision_start: Path | None = None) -> dict[str, Any]:
    """The configuration of the demo's two rounds as YAML-able data, for `config.load_config`.

    `vision_start` is the folder that `blip_training.vision_start` has made of the world's labelled drawings; without
    it the image encoder starts from random weights, and nothing much is learned in so few steps.
    """
    folder = world.folder
    finetune = {"optimizer": _optimizer(120, 5e-4), "augment": "none"}
    return {
        "root": str(root),
        "download": {
            "urls": [{"path": str(world.url_list), "dataset": "demo web", "caption_column": "alt_text"}],
            "image_size": world.config.picture_px,
            "resize_mode": "no",
            "timeout_s": 2.0,
            "num_retries": 1,
            "num_threads": 16,
            "allow_private_addresses": True,
            "rows_per_shard": 500,
        },
        "human": {"path": str(folder / "human.jsonl")},
        "held_out": {"path": str(folder / "held_out.jsonl")},
        "truth": str(folder / "truth.jsonl"),
        "pretrain": {
            "model": _model(folder / "tokenizer", vision_start),
            "optimizer": _optimizer(400, 2e-3),
            "itc": {"queue_size": 1024, "alpha_ramp_steps": 200, "momentum": 0.98},
            "itm": {"uniform_share": 0.5},
            "augment": "none",
        },
        "captioner": finetune,
        "filter": {**finetune, "itc": {"queue_size": 0, "momentum": 0.98}, "itm": {"uniform_share": 0.5}},
        "caption": {"sampler": {"preset": "nucleus", "top_p": 0.9, "temperature": 0.5, "max_tokens": 20}},
        "evaluate": {"sampler": {"preset": "greedy", "max_tokens": 20}},
        "controls": {"arms": ["human_only", "filter_only"]},
    }


def _model(tokenizer: Path, vision_start: Path | None) -> dict[str, Any]:
    start = {"start": str(vision_start)} if vision_start else {}
    return {
        "vision": {"image_size": 32, "patch_size": 4, "width": WIDTH, "depth": 3, "heads": 4, **start},
        "text": {
            "tokenizer": str(tokenizer), "width": WIDTH, "depth": 2, "heads": 4, "intermediate": 4 * WIDTH,
            "max_tokens": 24, "max_positions": 32, "dropout": 0.0,
        },
        "embed_dim": 64,
    }  # fmt: skip


def _optimizer(steps: int, lr: float) -> dict[str, Any]:
    return {
        "steps": steps, "batch_size": 64, "lr": lr, "warmup_steps": steps // 10, "device": "cpu",
        "checkpoint_every_steps": 200,
    }  # fmt: skip
