"""The demo's configuration, chosen on the world's validation pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blip_bootstrap.world.world import World

WIDTH = 64

VISION_START: dict[str, Any] = {"steps": 1200, "batch_size": 64, "lr": 3e-3}
"""How the ViT is trained on labelled drawings, before it sees any text."""


def demo_config(root: Path, world: World, vision_start: Path | None = None) -> dict[str, Any]:
    """The configuration of the demo's two rounds as data that YAML can hold, for `config.load_config`.

    `vision_start` is the folder with the ViT that `blip_training.train.vision_start` trained on the world's labelled
    drawings. Without it the image encoder starts from random weights, and learns little in so few steps.
    """
    folder = world.folder
    return {
        "root": str(root),
        "download": _download(world),
        "human": {"path": str(folder / "human.jsonl")},
        "held_out": {"path": str(folder / "held_out.jsonl")},
        "truth": str(folder / "truth.jsonl"),
        "pretrain": {
            "model": _model(folder / "tokenizer", vision_start),
            "optimizer": _optimizer(steps=700, batch_size=32, lr=2e-3),
            "itc": _ITC,
            "itm": {"uniform_share": 0.5},
            "human_share": 0.25,
            "augment": "none",
        },
        "captioner": {"optimizer": _optimizer(steps=150, batch_size=64, lr=5e-4), "augment": "none"},
        "filter": {
            "optimizer": _optimizer(steps=200, batch_size=64, lr=5e-4),
            "itc": {**_ITC, "alpha": 0.0},
            "itm": {"uniform_share": 0.5},
            "augment": "none",
        },
        "caption": {
            "candidates": 2,
            "sampler": {"preset": "nucleus", "top_p": 0.9, "temperature": 0.4, "max_tokens": 24},
        },
        "select": _SELECT,
        "evaluate": {"sampler": {"preset": "greedy", "max_tokens": 24}},
        "controls": {"arms": ["human_only", "filter_only", "paper_rule"], "num_parallel": 2},
    }


# Without answers the rule is by ranks; `select.labels` gives it an answered sample. These scores and shares were the
# best on validation pictures; the arm `paper_rule` shows ITM's cut beside them.
_SELECT: dict[str, Any] = {
    "strategy": "learned",
    "score": {"web": ["itc", "logprob_per_token"], "synthetic": ["itc", "logprob"]},
    "cut_by": "share",
    "keep_fraction": {"web": 0.12, "synthetic": 0.5},
}

# No queue: a few dozen texts make up most of the world, so that a queue would hold the same text of other pictures,
# and count it as a negative.
_ITC: dict[str, Any] = {"queue_size": 0, "momentum": 0.98, "alpha_ramp_steps": 350}


def _download(world: World) -> dict[str, Any]:
    return {
        "urls": [{"path": str(world.url_list), "dataset": "demo web", "caption_column": "alt_text"}],
        "image_size": world.config.picture_px,
        "resize_mode": "no",
        "timeout_s": 2.0,
        "num_retries": 1,
        "num_threads": 16,
        "allow_private_addresses": True,
        "rows_per_shard": 500,
    }


def _model(tokenizer: Path, vision_start: Path | None) -> dict[str, Any]:
    start = {"start": str(vision_start)} if vision_start else {}
    return {
        "vision": {"image_size": 32, "patch_size": 8, "width": WIDTH, "depth": 2, "heads": 2, **start},
        "text": {
            "tokenizer": str(tokenizer), "width": WIDTH, "depth": 2, "heads": 2, "intermediate": 4 * WIDTH,
            "max_tokens": 24, "max_positions": 32, "dropout": 0.0,
        },
        "embed_dim": 64,
    }  # fmt: skip


def _optimizer(steps: int, batch_size: int, lr: float) -> dict[str, Any]:
    return {
        "steps": steps, "batch_size": batch_size, "lr": lr, "warmup_steps": steps // 10, "device": "cpu", "threads": 1,
        "checkpoint_every_steps": 200,
    }  # fmt: skip
