"""Captioners beside the round's own, of any kind, and what they are asked."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, field_validator

from blip_bootstrap.settings.marks import ToldByDigest
from blip_bootstrap.settings.section import Count, Section

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]

FIELDS = ("alt_text",)
"""What a prompt may have in braces."""


def fields_of(template: str) -> list[str]:
    """The names in braces in a prompt. Raises ValueError where braces do not match."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]


class PromptConfig(Section):
    """A prompt, and how often and how it is asked."""

    text: str = Field(description="what the captioner is asked; {alt_text} stands for the picture's web text")
    candidates: Count | None = Field(
        None, description="texts that are wanted of each picture by this prompt; null: as the writer's candidates"
    )
    sampler: Mapping[str, JsonValue] = Field(
        {}, description="options of the captioner that are others for this prompt, as {temperature: 1.0}"
    )

    @field_validator("text")
    @classmethod
    def _has_known_fields(cls, text: str) -> str:
        try:
            unknown = [name for name in fields_of(text) if name not in FIELDS]
        except ValueError as error:
            raise ValueError(f"{error}; write {{{{ and }}}} for braces") from error
        if unknown:
            raise ValueError(
                f"{{{unknown[0]}}} is none of what may stand in braces ({', '.join(FIELDS)}); write {{{{ and }}}} for "
                "braces"
            )
        return text


def _as_prompt(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


Prompt = Annotated[PromptConfig, BeforeValidator(_as_prompt)]


class WriterConfig(Section):
    """A captioner beside the round's own."""

    name: Name = Field(description="what it is called in the tables (column captioner)")
    kind: str = Field(
        description="blip, transformers, openai, vllm, or what an installed package brings "
        "(entry point blip_bootstrap.captioners)"
    )
    options: Annotated[Mapping[str, JsonValue], ToldByDigest()] = Field(
        {}, description="what this kind takes, as {checkpoint: OWNER/NAME}; recipes hold the digest that it makes of it"
    )
    prompts: Mapping[Name, Prompt] = Field(
        {"default": PromptConfig(text="Describe this image in one sentence.")},
        description="what it is asked, by name: a text, or text, candidates and sampler",
        min_length=1,
    )
    candidates: Count = Field(1, description="texts that it writes about an image by each prompt")
    clean: Literal["default", "none"] = Field(
        "default",
        description="default: beginnings such as `The image shows`, quotes and markup are taken off; none: texts are "
        "as the model gave them, whitespace folded",
    )

    def candidates_of(self, prompt: str) -> int:
        """How many texts are wanted of each picture by the prompt of this name."""
        own = self.prompts[prompt].candidates
        return self.candidates if own is None else own
