"""The settings of decoding, and their presets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blip_bootstrap.config import SamplerConfig


@dataclass(frozen=True)
class Sampler:
    """How captions are written; every field set.

    Lengths count tokens as transformers' `min_length` and `max_length` do: [DEC] and the prompt included, and [SEP].
    `top_k` 0: off; `top_p` 1: off. Neither acts where `sample` is false.
    """

    sample: bool = True
    num_beams: int = 1
    top_p: float = 0.9
    top_k: int = 0
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    min_tokens: int = 5
    max_tokens: int = 20


PRESETS = {
    "blip-official": Sampler(top_k=50, repetition_penalty=1.1),
    "nucleus": Sampler(),
    "beam": Sampler(sample=False, num_beams=3),
    "greedy": Sampler(sample=False),
}
"""`blip-official` is what the released code does where it says "nucleus": transformers' top-k 50 stays on."""


def resolve_sampler(config: SamplerConfig) -> Sampler:
    """The preset, with every setting that `config` gives beside it."""
    given = {name: value for name, value in config.model_dump(exclude={"preset"}).items() if value is not None}
    return dataclasses.replace(PRESETS[config.preset], **given)
