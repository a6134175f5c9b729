"""Captioners by the name of their kind: the built-in ones, and those that installed packages bring."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from blip_bootstrap.config import WriterConfig
from blip_bootstrap.errors import ConfigError, InputError
from blip_pipelines.captioners.interface import VARIES_WITH, Captioner

GROUP = "blip_bootstrap.captioners"
"""The entry points by which a package names its captioners: `my-kind = "my_package.module:MyCaptioner"`."""

BUILT_IN = {
    "blip": "blip_pipelines.captioners.blip:BlipCaptioner",
    "transformers": "blip_pipelines.captioners.transformers:TransformersCaptioner",
    "openai": "blip_pipelines.captioners.endpoint:EndpointCaptioner",
    "vllm": "blip_pipelines.captioners.vllm:VllmCaptioner",
}
"""Kinds that are always there; a package cannot take their names."""


def kinds() -> dict[str, str]:
    """Each kind of captioner with the class that it names, as `module:Class`."""
    return {one.name: one.value for one in entry_points(group=GROUP)} | BUILT_IN


def captioner_class(kind: str) -> type[Captioner]:
    """The class of a kind. Raises ConfigError where nobody has registered it, or its class cannot be imported."""
    known = kinds()
    if kind not in known:
        near = get_close_matches(kind, known, n=1)
        meant = f"did you mean {near[0]}?" if near else "install the package that brings it"
        raise ConfigError([f"kind: there is no captioner {kind!r}; {meant} (there are {', '.join(sorted(known))})"])
    found: type[Captioner] = _imported(kind, known[kind])
    return found


def make_captioner(kind: str, options: Mapping[str, Any]) -> Captioner:
    """A captioner of this kind, not loaded. Raises ConfigError where there is none, or its options are wrong."""
    made = captioner_class(kind)(options)
    lacking = [name for name in ("load", "caption", "digest", "varies_with") if not hasattr(made, name)]
    if lacking:
        raise ConfigError([f"kind: {kind} ({kinds()[kind]}) is no captioner: it has no {', '.join(lacking)}"])
    if made.varies_with not in VARIES_WITH:
        raise ConfigError([f"kind: {kind}: varies_with is one of {', '.join(VARIES_WITH)}, not {made.varies_with!r}"])
    return made


def made_by(writer: WriterConfig) -> Captioner:
    """The captioner of a writer, not loaded. Raises ConfigError where it, or a prompt's sampler, is wrong."""
    captioner = make_captioner(writer.kind, writer.options)
    for name, prompt in writer.prompts.items():
        if prompt.sampler:
            try:
                make_captioner(writer.kind, {**writer.options, **prompt.sampler})
            except ConfigError as error:
                raise ConfigError([f"prompts.{name}.sampler: {line}" for line in error.mistakes]) from error
    return captioner


def with_account(writer: WriterConfig, folder: Path) -> WriterConfig:
    """The writer, with a folder for the account of what it asks, where its captioner keeps one (`with_account`)."""
    place = getattr(captioner_class(writer.kind), "with_account", None)
    return writer.model_copy(update={"options": place(writer.options, folder)}) if place else writer


def mistakes_of(writer: WriterConfig) -> list[str]:
    """What is wrong with a writer's kind, options and samplers, one line for each mistake."""
    try:
        made_by(writer)
    except ConfigError as error:
        return [f"caption.writers.{writer.name}: {line}" for line in error.mistakes]
    except InputError as error:
        return [f"caption.writers.{writer.name}: {error}"]
    return []


def digest_of_writers(writers: Sequence[WriterConfig]) -> str:
    """What the captioners of all writers are, as one digest; of one that is wrong, its options as they are."""
    told = [_digest_of(one) for one in writers]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _digest_of(writer: WriterConfig) -> str:
    try:
        return make_captioner(writer.kind, writer.options).digest
    except InputError:  # said by who begins to work with it
        return json.dumps(dict(writer.options), sort_keys=True)


def _imported(kind: str, place: str) -> Any:
    try:
        if kind in BUILT_IN:
            module, _, name = place.partition(":")
            return getattr(import_module(module), name)
        return EntryPoint(kind, place, GROUP).load()
    except (ImportError, AttributeError) as error:
        raise ConfigError([f"kind: {kind} ({place}) cannot be imported: {error}"]) from error
