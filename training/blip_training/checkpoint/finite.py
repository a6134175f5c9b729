"""Checks that weights are finite: a diverged training leaves NaN, with which a model computes without an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from blip_bootstrap.errors import CheckpointError
from blip_training.checkpoint.weight_names import name_some

if TYPE_CHECKING:
    from pathlib import Path


def not_finite(state: Mapping[str, Any]) -> list[str]:
    """The dotted names of the tensors in a state dict, nested ones too, that hold NaN or an infinite number."""
    return [name for name, tensor in _tensors(state) if not is_finite(tensor)]


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers of a tensor are finite."""
    if not tensor.is_floating_point():
        return True
    # A finite sum, the usual case, takes half of the time of the whole test.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def check_finite(state: Mapping[str, Any], source: Path | str) -> None:
    """Raise CheckpointError, in one line that names the first keys, if weights of `source` are not finite."""
    if names := not_finite(state):
        raise CheckpointError(
            f"{source}: {name_some(names)} hold NaN or infinite numbers: its training diverged "
            "or it is damaged; give another checkpoint, or train it anew with a lower learning rate"
        )


def _tensors(state: Mapping[Any, Any], root: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            yield f"{root}{name}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{root}{name}.")
