"""How well the scores tell right texts from wrong ones, measured on pictures with human captions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from blip_bootstrap.config.caption import CaptionConfig
from blip_bootstrap.settings.section import NonNegative, Section, Seed

Untrained = Literal["all", "validation", "none"]
"""The part of the human set that neither captioner nor filter was fine-tuned on."""


class FilterCheckConfig(Section):
    """Measuring what each score can tell, on pictures with human captions that no model was trained on."""

    pictures: NonNegative = Field(
        300,
        description="pictures whose human captions, wrong texts and synthetic captions are scored; each costs as much "
        "as captioning an image; 0: off",
    )
    seed: Seed = Field(0, description="seed of the choice of pictures and of their wrong texts")


class CheckFilterConfig(FilterCheckConfig):
    """The settings on which the check depends: its own, and how the round's texts are written and scored."""

    caption: CaptionConfig
    untrained: Untrained = Field(description="the part of the human set that no fine-tuning of the round sees")
