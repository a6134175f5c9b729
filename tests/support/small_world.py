"""A run of the demo's configuration on a small world, and the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip_bootstrap.demo.settings import demo_config
from blip_bootstrap.world.server import WorldServer
from blip_bootstrap.world.world import WorldConfig, make_world

TRAINED_STEPS = 12


@dataclass(frozen=True)
class Run:
    """A root, the configuration that made it, and what the command printed."""

    root: Path
    config: Path
    said: str


def blip(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own; ten minutes are a hang."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, env=environment(), timeout=600
    )


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "blip_bootstrap", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "160"}


def small_config(root: Path, folder: Path, num_web: int = 240) -> tuple[dict[str, Any], WorldServer]:
    """The demo's configuration on some pictures with a dozen steps a training, and the server of its world."""
    world = make_world(
        folder,
        WorldConfig(
            num_web=num_web,
            num_human=40,
            num_held_out=40,
            num_validation=1,
            num_vision=0,
            blank_share=0.01,
            duplicate_share=0.01,
        ),
    )
    config = demo_config(root, world)
    config["download"] |= {"rows_per_shard": 60, "timeout_s": 1.0}
    for section in ("pretrain", "captioner", "filter"):
        config[section]["optimizer"] |= {"steps": TRAINED_STEPS, "batch_size": 16, "checkpoint_every_steps": 6}
    config["controls"] = {"arms": ["human_only", "oracle"]}
    config["select"] = {"itm_threshold": 0.0}  # so little training leaves no score to choose by
    config["caption"] |= {"num_actors": 1}
    return config, WorldServer(world.pictures, world.port)
