"""How captions are decoded: the settings, and their presets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from blip_bootstrap.config import SamplerConfig
from blip_bootstrap.config.caption import MAX_TOKENS, MIN_TOKENS


@dataclass(frozen=True)
class Sampler:
    """The settings of decoding, each with a value.

    Lengths count tokens with [DEC], the prompt and [SEP], as transformers' `min_length` and `max_length` do. `top_k` 0
    and `top_p` 1 are off; neither has an effect unless `sample` is true.
    """

    sample: bool = True
    num_beams: int = 1
    top_p: float = 0.9
    top_k: int = 0
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    min_tokens: int = MIN_TOKENS
    max_tokens: int = MAX_TOKENS


PRESETS = {
    "blip-official": Sampler(top_k=50, repetition_penalty=1.1),
    "nucleus": Sampler(),
    "beam": Sampler(sample=False, num_beams=3),
    "greedy": Sampler(sample=False),
}
"""`blip-official` is what the released code calls nucleus sampling: transformers' default top-k of 50 stays on."""


def resolve_sampler(config: SamplerConfig) -> Sampler:
    """The preset that `config` names, changed by the settings that it gives beside it."""
    given = {name: value for name, value in config.model_dump(exclude={"preset"}).items() if value is not None}
    return dataclasses.replace(PRESETS[config.preset], **given)
