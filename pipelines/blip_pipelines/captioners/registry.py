"""Captioners by the name of their kind: the built-in ones, and those that installed packages bring."""

from __future__ import annotations

from blip_bootstrap.config import WriterConfig
from blip_bootstrap.errors import ConfigError, InputError
from blip_pipelines.captioners.interface import Captioner
from blip_pipelines.captioners.kinds import Kinds

GROUP = "blip_bootstrap.captioners"
"""The entry points by which a package names its captioners: `my-kind = "my_package.module:MyCaptioner"`."""

BUILT_IN = {
    "blip": "blip_pipelines.captioners.blip:BlipCaptioner",
    "transformers": "blip_pipelines.captioners.transformers:TransformersCaptioner",
    "openai": "blip_pipelines.captioners.endpoint:EndpointCaptioner",
    "vllm": "blip_pipelines.captioners.vllm:VllmCaptioner",
}
"""Kinds that are always there; a package cannot take their names."""


KINDS: Kinds[Captioner] = Kinds("captioner", GROUP, BUILT_IN, ("load", "caption", "digest", "varies_with"))


def made_by(writer: WriterConfig) -> Captioner:
    """The captioner of a writer, not loaded. Raises ConfigError where it, or a prompt's sampler, is wrong."""
    captioner = KINDS.make(writer.kind, writer.options)
    for name, prompt in writer.prompts.items():
        if prompt.sampler:
            try:
                KINDS.make(writer.kind, {**writer.options, **prompt.sampler})
            except ConfigError as error:
                raise ConfigError([f"prompts.{name}.sampler: {line}" for line in error.mistakes]) from error
    return captioner


def mistakes_of(writer: WriterConfig) -> list[str]:
    """What is wrong with a writer's kind, options and samplers, one line for each mistake."""
    try:
        made_by(writer)
    except ConfigError as error:
        return [f"caption.writers.{writer.name}: {line}" for line in error.mistakes]
    except InputError as error:
        return [f"caption.writers.{writer.name}: {error}"]
    return []
