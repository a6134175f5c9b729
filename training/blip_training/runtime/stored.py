"""Reads weights as they lie on disk: safetensors or a pickle of plain tensors, in one file or in shards, or wrapped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from blip_bootstrap.errors import CheckpointError
from blip_training.runtime.weight_files import one_line, refuse_pointer, weight_files, what_is_wrong

if TYPE_CHECKING:
    from torch import Tensor


WRAPPERS = ("model", "state_dict", "model_state_dict", "module")
"""The keys under which trainings save their weights, beside optimizer and counters."""

ROOTS = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and Lightning put before each name."""


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder by name: model.safetensors, else pytorch_model.bin, in one file or in shards.

    Raises CheckpointError if a file is missing or damaged, or a pickle holds anything but plain values.
    """
    files = weight_files(folder)
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= read_safetensors(file) if file.suffix == ".safetensors" else read_pickled(file)
    return plain_names(weights)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises CheckpointError if it is missing, cut or of another format."""
    try:
        refuse_pointer(file)
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({what_is_wrong(file) or one_line(error)})") from error


def read_pickled(file: Path) -> dict[str, Tensor]:
    """The tensors of a file that torch.save wrote, from the mapping that holds them; no code in it is run.

    Raises CheckpointError if it holds anything but plain values, or no tensors.
    """
    try:
        refuse_pointer(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # damaged bytes lead the unpickler to any
        raise CheckpointError(f"{file}: cannot be read as plain weights ({_why(error, file)})") from error
    tensors = {str(name): value for name, value in _unwrapped(content).items() if isinstance(value, torch.Tensor)}
    weights = {name: value for name, value in tensors.items() if not value.is_meta}  # those have no numbers
    if not weights:
        held = f"keys {', '.join(map(str, list(content)[:5]))}" if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{file}: no weights in it ({held}); a mapping of names to tensors is expected")
    return plain_names(weights)


def _why(error: Exception, file: Path) -> str:
    """The error in a line; for Python objects in a pickle the class's name, which torch hides among many lines."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it holds a Python object, {found[1]}, which could run code; save the state_dict alone"
    if isinstance(error, OSError) or not file.stat().st_size:
        return one_line(error) or "0 bytes"
    if str(error).startswith("PytorchStreamReader"):
        return one_line(error)[:200]
    # What torch says of such bytes is advice to run them.
    return "not a file that torch.save wrote, or a damaged one"


def _unwrapped(content: Any) -> dict[Any, Any]:
    """The mapping in a training's state that holds the weights; it may be wrapped twice."""
    for _ in WRAPPERS:
        mapping = content if isinstance(content, dict) else {}
        content = next((mapping[name] for name in WRAPPERS if isinstance(mapping.get(name), dict)), mapping)
    return dict(content)


def plain_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by names without the prefixes of wrappers (`ROOTS`), or of compiled submodules."""
    weights = {name.replace("_orig_mod.", ""): weight for name, weight in weights.items()}
    while root := next((root for root in ROOTS if weights and all(name.startswith(root) for name in weights)), None):
        weights = {name.removeprefix(root): weight for name, weight in weights.items()}
    return weights
