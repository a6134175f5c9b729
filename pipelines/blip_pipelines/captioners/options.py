"""The options of built-in captioners: checked by name and type, each mistake in a line of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from blip_bootstrap.errors import ConfigError
from blip_bootstrap.paths import is_there, model_name
from blip_bootstrap.settings.mistakes import in_words
from blip_bootstrap.stores.store import fetched
from blip_training.runtime.commits import pinned

SAMPLED = 64
"""Pieces of a large file of weights that its digest is made of, evenly spaced; any fine-tuning changes them all."""

PIECE_BYTES = 1 << 16

WHOLE_BYTES = 1 << 25
"""Smaller files are hashed whole."""


class Options(BaseModel):
    """The base class of a built-in captioner's options: frozen, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


OfKind = TypeVar("OfKind", bound=Options)


def checked(kind: type[OfKind], given: Mapping[str, Any]) -> OfKind:
    """The options as `kind` has them. Raises ConfigError, with one line for each mistake."""
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        raise ConfigError([_in_words(item, kind) for item in error.errors()]) from error


def _in_words(item: Any, kind: type[Options]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"options.{name}: there is no such option; there are {', '.join(kind.model_fields)}"
    return f"options.{name}: {in_words(item)}"


def source_of(checkpoint: str) -> str:
    """A folder, a file or a hub name as an option has it, `~` expanded. Raises ConfigError for a path without anything.

    A name that may be of the hub is not asked for there. What lies on a run's store is fetched from it.
    """
    try:
        source = str(model_name(checkpoint))
    except ValueError as error:
        raise ConfigError([f"options.checkpoint: {error}"]) from error
    is_path = source.startswith((".", "/")) or source.count("/") > 1
    if not is_there(fetched(Path(source))) and is_path:
        raise ConfigError([f"options.checkpoint: {source}: no such file or folder"])
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise ConfigError([f"options.checkpoint: {source}: there is no config.json in it; give a model's folder"])
    return source


def digest_of_weights(checkpoint: str, revision: str | None = None) -> str:
    """What a model folder holds, as 64 hex digits, in a second even for large ones; of a hub name, it and its commit.

    Of files over 32 MiB the size and 64 evenly spaced pieces of 64 KiB are hashed.
    """
    if not is_there(Path(checkpoint)):
        commit = revision or pinned().get(checkpoint)
        return f"{checkpoint}@{commit}" if commit else checkpoint
    path = Path(checkpoint)
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    whole = hashlib.sha256()
    for one in files:
        if not one.name.startswith("."):
            stat = one.stat()
            whole.update(f"{one.relative_to(path)} {_digest_of_file(one, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return whole.hexdigest()


@lru_cache(maxsize=1_024)
def _digest_of_file(path: Path, size: int, changed_ns: int) -> str:
    """Of a file as it is since `changed_ns`; a command asks several times."""
    if size <= WHOLE_BYTES:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(SAMPLED):
            file.seek((size - PIECE_BYTES) * number // (SAMPLED - 1))
            found.update(file.read(PIECE_BYTES))
    return found.hexdigest()


def digest_of(*parts: object) -> str:
    """64 hex digits of what decides a captioner's texts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
