"""Looks at given models without opening them: what a run can begin with, before torch is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import BlipBootstrapError
from blip_training.data.vocabulary import ADDED, read_pieces
from blip_training.runtime.sources import is_here, resolve_source
from blip_training.runtime.weight_files import read_json, weight_files, what_is_wrong

CAN = {"BlipForConditionalGeneration": "decode", "BlipForImageTextRetrieval": "match"}
"""What the weights of each kind of transformers' folders are trained for."""

SIZES = ("hidden_size", "intermediate_size")


def looks_right(source: str, needs: str) -> bool:
    """Whether a model or tokenizer of this machine seems to be what a step `needs` of it: tokenizer, decode or match.

    Of a folder: its configuration, the sizes in the headers of its weights, that these are whole, and its tokenizer.
    False where anything is not as it should be or not known here; what is wrong is said by opening it.
    """
    if needs not in ("tokenizer", "decode", "match") or not is_here(source):
        return False
    try:
        path = resolve_source(source)
        tokens = read_pieces(path).get_vocab()
        return needs == "tokenizer" or _is_whole(path, needs, 1 + max(tokens.values()) + len(ADDED))
    except (BlipBootstrapError, OSError, AttributeError, LookupError, TypeError, ValueError):
        return False


def _is_whole(folder: Path, needs: str, num_tokens: int) -> bool:
    content, beside = read_json(folder / "config.json"), folder / "med.json"
    files = weight_files(folder)
    if any(file.suffix != ".safetensors" or what_is_wrong(file) for file in files):
        return False
    if own := content if "model" in content else read_json(beside) if beside.is_file() else None:
        can, said, sizes = own["capabilities"], own["num_tokens"], []
    else:
        can, said = [CAN[name] for name in content["architectures"]], content["text_config"]["vocab_size"]
        parts = content["text_config"], content["vision_config"]
        sizes = [int(part[name]) for part in parts for name in SIZES if name in part]
    known = {size for file in files for shape in _shapes(file) for size in shape}
    return needs in can and said == num_tokens and known.issuperset([num_tokens, *sizes])


def _shapes(file: Path) -> list[Sequence[int]]:
    """The shapes of the tensors of a safetensors file, by its header."""
    with file.open("rb") as opened:
        header: dict[str, Any] = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return [entry["shape"] for entry in header.values() if "shape" in entry]
