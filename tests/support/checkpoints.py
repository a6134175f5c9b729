"""What the checkpoints of a training hold, and ways to damage files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from blip_training.train.checkpoint_files import checkpoints_in


def newest_state(out: Path) -> dict[str, Any]:
    """What the newest checkpoint of the training in `out` holds."""
    state: dict[str, Any] = torch.load(checkpoints_in(out)[0], weights_only=True)
    return state


def damage(path: Path, how: str) -> None:
    """Damage a file: `deleted`, `emptied`, `cut` to its half, or `turned`: one bit in its middle."""
    data = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "turned":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) // 2 if how == "cut" else 0])
