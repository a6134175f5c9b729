"""Where the checkpoints of a training lie, and which there are; loads no torch, so that a driver may ask."""

from __future__ import annotations

import re
from pathlib import Path

from blip_bootstrap.stores.store import gone, is_there, sizes_there

CHECKPOINTS = ".checkpoints"
"""In a training's folder: its last checkpoints. Hidden, as what a step keeps for itself: they go once the MANIFEST of
what was trained is there, not before."""

BEFORE = "checkpoint.pt"
"""In a training's folder: the one checkpoint of versions before, which counts as older than all others."""

_NAME = re.compile(r"checkpoint-(\d{8,})\.pt")


def checkpoint_path(out: Path, step: int) -> Path:
    """The checkpoint of a training in `out` after so many steps."""
    return out / CHECKPOINTS / f"checkpoint-{step:08d}.pt"


def step_of(path: Path) -> int:
    """The number of steps after which a checkpoint was written; 0 for that of versions before, whose name is silent."""
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else 0


def checkpoints_in(out: Path) -> list[Path]:
    """The checkpoints of a training, here or on the run's store, the newest first; each was written whole."""
    folder = out / CHECKPOINTS
    names = {one.name for one in folder.glob("checkpoint-*.pt")} | sizes_there(folder).keys()
    found = sorted((folder / name for name in names if _NAME.fullmatch(name)), key=step_of, reverse=True)
    return found + [out / BEFORE] * is_there(out / BEFORE)


def newest_step(out: Path) -> int:
    """The step of the newest checkpoint of the training in `out`; 0 where there is none."""
    return max(map(step_of, checkpoints_in(out)), default=0)


def delete_checkpoints(out: Path) -> None:
    """Delete the checkpoints of a training, once what was trained lies where nothing can lose it."""
    for one in (out / CHECKPOINTS, out / BEFORE):
        if is_there(one) or sizes_there(one):
            gone(one)
