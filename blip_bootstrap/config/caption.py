"""Captioning, scoring and selection (section 3.3)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from blip_bootstrap.config.section import (
    SPEED,
    Count,
    Device,
    Dtype,
    Fraction,
    NonNegative,
    Normalise,
    Positive,
    Section,
    Source,
)


class SamplerConfig(Section):
    """How the captioner writes. `preset` sets the rest; what is given beside it wins."""

    preset: Literal["blip-official", "nucleus", "beam", "greedy"] = "nucleus"
    top_p: Fraction | None = None
    top_k: NonNegative | None = Field(None, description="0: off")
    temperature: Positive | None = None
    repetition_penalty: Positive | None = None
    num_beams: Count | None = None
    min_tokens: NonNegative | None = Field(
        None, description="with the prompt, the token before it and the one that ends the text, as transformers counts"
    )
    max_tokens: Count | None = Field(None, description="as min_tokens; a text that reaches it is cut there")


class CaptionConfig(Section):
    """Synthetic captions and the scores of all texts (section 3.3)."""

    sampler: SamplerConfig = SamplerConfig()
    candidates: Count = Field(1, description="synthetic captions per image, of each captioner")
    captioners: tuple[Source, ...] = Field((), description="more of them beside the round's: folder, .pth or hub name")
    filters: tuple[Source, ...] = Field((), description="more of them beside the round's: folder, .pth or hub name")
    combine: Literal["mean", "min"] = Field("mean", description="what several filters' scores become")
    scorer: Source | None = Field(None, description="a CLIPModel or SiglipModel, folder or hub name, for clip_score")
    prompt: str = "a picture of"
    normalise: Normalise = Field(
        "auto",
        description="how texts to score are shown to the model; none: as given; blip: lower case, few marks, 30 words; "
        "auto: as it was trained, blip for a given BLIP with a lower-case tokenizer",
    )
    batch_size: NonNegative = Field(
        0, description="images at a time; 0: 64 on a CPU, 256 on a GPU; halved where memory runs out",
        json_schema_extra=SPEED,
    )  # fmt: skip
    device: Device = Field("auto", json_schema_extra=SPEED)
    dtype: Dtype = "float32"
    compile: bool = Field(False, description="torch.compile the image encoder's blocks; decoding stays eager")
    num_actors: NonNegative = Field(
        0, description="Ray actors; 0: as many as the cluster's CPUs or GPUs carry", json_schema_extra=SPEED
    )
    cpus_per_actor: Positive = Field(
        1.0, description="torch's threads on a CPU; for a GPU 2 to 8 processes decode, so many or as cores are idle",
        json_schema_extra=SPEED,
    )  # fmt: skip
    gpus_per_actor: Annotated[float, Field(ge=0)] = Field(
        0.0, description="0: one, where there are GPUs; 0.25: four actors on each", json_schema_extra=SPEED
    )
    seed: int = 0
