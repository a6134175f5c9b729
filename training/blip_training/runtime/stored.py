"""Reads weights as they lie on disk: safetensors or a pickle of plain tensors, in one file or in shards, or wrapped."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from blip_bootstrap.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"

LFS_POINTER = b"version https://git-lfs.github.com/spec/"

WRAPPERS = ("model", "state_dict", "model_state_dict", "module")
"""The keys under which trainings save their weights, beside optimizer and counters."""

ROOTS = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and Lightning put before each name."""

OTHER_FILES = {
    "adapter_config.json": "an adapter (LoRA), not a whole model; merge it into its model and save that",
    "tf_model.h5": "TensorFlow weights alone; save them as safetensors",
    "flax_model.msgpack": "Flax weights alone; save them as safetensors",
}


def refuse_pointer(file: Path) -> None:
    """Raise CheckpointError if `file` is a Git LFS pointer in place of a file that was not fetched."""
    with file.open("rb") as start:
        if start.read(len(LFS_POINTER)) == LFS_POINTER:
            raise CheckpointError(f"{file}: a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")


def refuse_pointers(folder: Path) -> None:
    """Raise CheckpointError if any file of the folder is a Git LFS pointer."""
    for file in sorted(folder.iterdir()):
        if file.is_file():
            refuse_pointer(file)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError if it cannot be read or is no object."""
    try:
        refuse_pointer(path)
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(_instead(path.parent) or f"{path}: cannot be read ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder by name: model.safetensors, else pytorch_model.bin, in one file or in shards.

    Raises CheckpointError if a file is missing or damaged, or a pickle holds anything but plain values.
    """
    files = _weight_files(folder)
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= read_safetensors(file) if file.suffix == ".safetensors" else read_pickled(file)
    return plain_names(weights)


def _weight_files(folder: Path) -> list[Path]:
    for name in (SAFE, PICKLED):
        # Several in a folder: in the order in which transformers prefers them.
        if (folder / name).exists() or (folder / name).is_symlink():
            return [folder / name]
        if (index := folder / f"{name}.index.json").is_file():
            shards = read_json(index).get("weight_map")
            if not isinstance(shards, dict) or not shards:
                raise CheckpointError(f"{index}: no weight_map in it, which names the file of each weight")
            return sorted({folder / str(shard) for shard in shards.values()})
    raise CheckpointError(_instead(folder) or f"{folder}: neither {SAFE} nor {PICKLED} in it")


def _instead(folder: Path) -> str | None:
    """What a folder without a model holds instead, if that is known."""
    return next((f"{folder}: {what}" for name, what in OTHER_FILES.items() if (folder / name).is_file()), None)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises CheckpointError if it is missing, cut or of another format."""
    try:
        refuse_pointer(file)
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({_what_is_wrong(file) or one_line(error)})") from error


def _what_is_wrong(file: Path) -> str | None:
    """Why a safetensors file cannot be read, if its header shows it."""
    if not file.is_file():
        return "there is no such file" if not file.is_symlink() else "a link to a file that is gone"
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or (head[:1] != b"<" and 8 + length > size and length < 100_000_000):
            return f"{size:,} bytes, not even its header is whole: download it again"
        try:
            header = json.loads(opened.read(length if length <= size else 0))
            whole = 8 + length + max(entry["data_offsets"][1] for entry in header.values() if "data_offsets" in entry)
        except (ValueError, TypeError, KeyError, AttributeError):
            return "not a safetensors file"
    return f"{size:,} of {whole:,} bytes: download it again" if size < whole else None


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


def one_line(error: Exception) -> str:
    """The error's message without line breaks."""
    return re.sub(r"\s+", " ", str(error)).strip()
