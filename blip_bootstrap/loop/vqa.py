"""The recipe of a folder that `vqa train` or `vqa answer` writes: the same goes on, another is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from blip_bootstrap.errors import InputError
from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.manifest import digest_of_path, flat, recipe_of

if TYPE_CHECKING:
    from blip_bootstrap.config import VqaConfig


RECIPE, CHECKPOINT = "recipe.json", "checkpoint.pt"

MODEL = "model.safetensors"
"""The last file of a model that is written: where it is, the model is whole."""


def keep_recipe(out: Path, start: str, questions: Path, image_root: Path | None, config: VqaConfig) -> None:
    """Note in `out` what is made there. Raises InputError where it is begun or made by another recipe."""
    file = out / RECIPE
    inputs = {
        "start": digest_of_path(Path(start)) if Path(start).exists() else start,
        "questions": digest_of_path(questions),
        "image_root": str((image_root or questions.parent).resolve()),
    }
    recipe = recipe_of("vqa train", config, inputs)
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    begun = (out / MODEL).exists() or (out / CHECKPOINT).exists()
    if kept is not None and kept != recipe and begun:
        was, now = flat(kept), flat(recipe)
        differs = ", ".join(sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name)))
        raise InputError(f"{out}: begun with another recipe ({differs} differ); give another --out, or delete it")
    if kept is None and out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out}: not empty, and not made by this command; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(recipe, indent=1))


def check_folder(out: Path | None) -> None:
    """Raise InputError where `out` cannot be written, before any work."""
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"{out}: {'a folder' if out.is_dir() else f'there is no folder {out.parent}'}; give a file")
