"""Models and tokenizers that lie on the driver's disk, put to the run's store for workers that do not see that disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from blip_bootstrap.config import Config
from blip_bootstrap.settings.marks import ByContent, ToldByDigest, mark_of
from blip_bootstrap.storage.files import staged_file
from blip_bootstrap.storage.manifest import digest_of_path
from blip_bootstrap.stores.store import is_there, store_of
from blip_pipelines.cluster.resources import NO_RAY
from blip_pipelines.scoring.sources import paths_in

GIVEN = "given"
"""Under the root of a run on a store: for each digest of a given model's files its folder and name, as it was given."""

Value = TypeVar("Value")


def with_sent(config: Config, value: Value) -> Value:
    """A step's argument or section, in which what lies on this disk is named where the workers of a cluster find it.

    It is put there first. Whatever all workers can see or fetch themselves (hub names, packages, the run's own
    folders) is named as before, and so is everything where there is no cluster, or the run is on a disk.
    """
    if config.ray.address in (NO_RAY, "local") or store_of(config.root) is None:
        return value
    found: Value = _sent(config.root, value)
    return found


def _sent(root: Path, value: Any) -> Any:
    if isinstance(value, BaseModel):
        found = {
            name: _sent_setting(root, field, getattr(value, name)) for name, field in type(value).model_fields.items()
        }
        return value.model_copy(update=found)
    if isinstance(value, tuple):
        return tuple(_sent(root, one) for one in value)
    if not isinstance(value, str | Path) or not Path(value).exists() or store_of(Path(value).absolute().parent):
        return value
    return type(value)(_put(root, Path(value).resolve()))


def _sent_setting(root: Path, field: FieldInfo, value: Any) -> Any:
    """A setting of a section: a name of a model, another section or several, or options of a plugged-in model."""
    if mark_of(field, ToldByDigest):
        paths = paths_in(value)
        return {name: _sent(root, one) if one in paths else one for name, one in value.items()}
    some = value if isinstance(value, tuple) else (value,)
    is_section = any(isinstance(one, BaseModel) for one in some)
    return _sent(root, value) if is_section or mark_of(field, ByContent) else value


def _put(root: Path, given: Path) -> Path:
    """Copy a model or tokenizer into the run, under its digest; where it lies there."""
    files = _files(given)
    stamps = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    folder = root / GIVEN / _digest(given, stamps) / given.parent.name
    for file in files:
        target = folder / file.relative_to(given.parent)
        if not is_there(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with staged_file(target) as staged:
                shutil.copyfile(file, staged)
    return folder / given.name


def _files(given: Path) -> list[Path]:
    """A folder's files; of a single one (.pth, vocab.txt) those beside it, too, by which it is read."""
    if given.is_dir():
        return sorted(one for one in given.rglob("*") if one.is_file())
    return [given, *sorted({*given.parent.glob("vocab.txt"), *given.parent.glob("*.json")} - {given})]


@lru_cache(maxsize=64)
def _digest(given: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """The sha256 of a model's names and files, as long as their sizes and dates are these."""
    files = [[str(Path(file).relative_to(given.parent)), digest_of_path(Path(file))] for file, _, _ in stamps]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()
