"""The checkpoint of a training: model, optimizer, log and step, in one file from which it goes on to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from blip_bootstrap.errors import CheckpointError
from blip_bootstrap.storage.files import staged_file
from blip_bootstrap.storage.store import gone
from blip_training.checkpoint.finite import not_finite

CHECKPOINT = "checkpoint.pt"


class Checkpoints:
    """The checkpoint in a training's folder `out`, on this machine or on the store of the run."""

    def __init__(self, out: Path) -> None:
        self.path = out / CHECKPOINT

    def exist(self) -> bool:
        """Whether there is one."""
        return self.path.exists()

    def save(self, state: Mapping[str, Any]) -> None:
        """Write `state`, whole or not at all; it takes the place of the one before."""
        with staged_file(self.path) as staged, staged.open("wb") as file:
            torch.save(dict(state), file)  # given a path, torch would not report a full disk

    def restore(self, modules: Mapping[str, nn.Module], optimizer: Optimizer) -> dict[str, Any] | None:
        """Load modules and optimizer from the checkpoint, and return what else it holds; None where there is none.

        Raises CheckpointError where it is damaged, of another model or version, or of a diverged training.
        """
        if not self.exist():
            return None
        state, path = read_checkpoint(self.path), self.path
        try:
            for name, module in modules.items():
                module.load_state_dict(state[name])
            optimizer.load_state_dict(state["optimizer"])
            names = not_finite(weights_of(modules, optimizer))
            rest = {"step": state["step"], "log": state["log"]}
        except (KeyError, RuntimeError, ValueError) as error:
            said = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:300]
            raise CheckpointError(f"{path}: of another model or version ({said}); delete it and run again") from error
        if names:
            raise CheckpointError(f"{path}: of a diverged training ({names[0]} is not finite); delete it and run again")
        return rest

    def delete(self) -> None:
        """Delete the checkpoint, here and on the store."""
        gone(self.path)


def weights_of(modules: Mapping[str, nn.Module], optimizer: Optimizer) -> dict[str, Any]:
    """The state of each module by its name, and the optimizer's."""
    weights: dict[str, Any] = {name: module.state_dict() for name, module in modules.items()}
    return weights | {"optimizer": optimizer.state_dict()}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of `Run`, without unpickling objects. Raises CheckpointError if it is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: a damaged checkpoint; delete it and run again") from error
    return dict(state)
