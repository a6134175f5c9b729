"""The models of a captioning step by name: where they are, what they are called in the tables; needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blip_bootstrap.config import CaptionConfig
from blip_bootstrap.paths import is_there
from blip_bootstrap.storage.run_folder import MANIFEST
from blip_training.runtime.commits import pinned

Source = str | Path


ACTIVATIONS_BYTES = 1_000_000_000
"""What a worker holds beside its models: libraries, a batch's pictures, what the models make of them."""

HUB_BYTES = 1_000_000_000
"""A model's weights, where only its name on the hub is known: BLIP's base size."""


def worker_bytes(captioner: Source | None, filter: Source, config: CaptionConfig) -> int:
    """Memory that a worker is taken to need, before one has shown it: its models twice, as they are read, and more."""
    sources = {*captioner_sources(captioner, config), *filter_sources(filter, config), config.scorer or filter}
    options = [one.options for one in config.writers] + [one.options for one in config.judges]
    written = [path for one in options for path in paths_in(one)]
    return ACTIVATIONS_BYTES + 2 * sum(map(_num_bytes, {*sources, *written}))


def judges_bytes(config: CaptionConfig) -> int:
    """The same of a worker that asks judges alone."""
    return ACTIVATIONS_BYTES + 2 * sum(
        map(_num_bytes, {path for one in config.judges for path in paths_in(one.options)})
    )


def _num_bytes(source: Source) -> int:
    path = Path(source)
    if path.is_file():
        return path.stat().st_size
    found = [*path.glob("*.safetensors"), *path.glob("*.bin")]
    return sum(file.stat().st_size for file in found) if path.is_dir() else HUB_BYTES


def captioner_sources(captioner: Source | None, config: CaptionConfig) -> list[Source]:
    """The round's captioner, where it writes, and those beside it."""
    return [*([captioner] if captioner else []), *config.captioners]


def filter_sources(filter: Source, config: CaptionConfig) -> list[Source]:
    """The round's filter and those beside it."""
    return [filter, *config.filters]


def name_of_model(source: Source) -> str:
    """A hub name as it is, of a folder or file the last two parts of its path: `round-01/captioner`."""
    return "/".join(Path(source).parts[-2:])


def distinct_names(sources: Sequence[Source]) -> list[str]:
    """The models' names; where two would be alike, whole as they were given."""
    names = [name_of_model(source) for source in sources]
    return [name if names.count(name) == 1 else str(source) for name, source in zip(names, sources, strict=True)]


def digest_of_model(source: Source) -> str:
    """What a model folder's MANIFEST states as its content; the name where there is none, a hub's with its commit."""
    try:
        return str(json.loads((Path(source) / MANIFEST).read_text(encoding="utf-8"))["content"])
    except (OSError, ValueError, KeyError):
        commit = pinned().get(str(source))
        return f"{source}@{commit}" if commit else str(source)


def with_absolute_models(config: CaptionConfig) -> CaptionConfig:
    """The configuration with its models' folders as absolute paths, since actors may work elsewhere."""
    found = {name: tuple(map(absolute, getattr(config, name))) for name in ("captioners", "filters")}
    writers = tuple(one.model_copy(update={"options": _absolute_paths(one.options)}) for one in config.writers)
    judges = tuple(one.model_copy(update={"options": _absolute_paths(one.options)}) for one in config.judges)
    scorer = absolute(config.scorer) if config.scorer else None
    return config.model_copy(update=found | {"scorer": scorer, "writers": writers, "judges": judges})


def _absolute_paths(options: Mapping[str, Any]) -> dict[str, Any]:
    """A writer's or judge's options, in which files and folders that are there have absolute paths."""
    return {name: absolute(value) if value in paths_in(options) else value for name, value in options.items()}


def paths_in(options: Mapping[str, Any]) -> list[str]:
    """The texts among a writer's or judge's options that name a file or folder here.

    Those with a slash are looked at, and the checkpoint.
    """
    texts = [one for name, one in options.items() if isinstance(one, str) and (name == "checkpoint" or "/" in one)]
    return [one for one in texts if is_there(Path(one))]


def absolute(source: Source) -> str:
    """A folder or file as absolute path; a hub name as it is."""
    return str(Path(source).absolute()) if Path(source).exists() else str(source)
