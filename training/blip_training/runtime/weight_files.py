"""The files that weights lie in: which they are, whether they are whole, and what stands in their JSON; no tensor."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import CheckpointError

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"

LFS_POINTER = b"version https://git-lfs.github.com/spec/"

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


def weight_files(folder: Path) -> list[Path]:
    """The files with a folder's weights, which may not be there. Raises CheckpointError where it names none."""
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
    """What a folder without a model holds instead, if that is known: another thing's files, or models below it."""
    for name, what in OTHER_FILES.items():
        if (folder / name).is_file():
            return f"{folder}: {what}"
    if (folder / "config.json").exists():
        return None
    in_round, in_run = (sorted(one.parent for one in folder.glob(f"{kind}/config.json")) for kind in ("*", "round-*/*"))
    below = (in_round or in_run)[-3:]  # of a run the newest round's
    return f"{folder}: no model, but {len(below)} below it: {', '.join(map(str, below))}" if below else None


def what_is_wrong(file: Path) -> str | None:
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


def one_line(error: Exception) -> str:
    """The error's message without line breaks."""
    return re.sub(r"\s+", " ", str(error)).strip()
