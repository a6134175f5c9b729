"""Fine-tuning for visual question answering (section 5.4)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from blip_bootstrap.config.training import Augment, CropArea, OptimizerConfig
from blip_bootstrap.settings.marks import Later, Speed
from blip_bootstrap.settings.section import Count, Fraction, NonNegative, Normalise, Positive, Section, check_workers


class VqaConfig(Section):
    """Fine-tuning for visual question answering, and how questions are answered (section 5.4)."""

    optimizer: OptimizerConfig = OptimizerConfig(steps=5000, lr=2e-5, warmup_steps=0, batch_size=256)
    image_size: Count | None = Field(
        None,
        description="side of the pictures that the model sees, px; null: as in the model it starts from (paper: 480)",
    )
    max_pixels: Annotated[Count, Later()] = Field(25_000_000, description="a picture of more pixels is not decoded")
    decode_timeout_s: Annotated[Positive, Later()] = Field(
        10.0, description="seconds of processor time that decoding a picture may take"
    )
    question_tokens: Annotated[int, Field(ge=4)] = Field(
        35, description="questions are cut to this many tokens, special ones included"
    )
    answer_tokens: Annotated[int, Field(ge=3)] = Field(
        10, description="answers are cut to this many tokens, special ones included"
    )
    normalise: Normalise = Field(
        "auto",
        description="how a question is changed before the model reads it; none: not at all; blip: lower case, without "
        "most punctuation, cut after 50 words; auto: as the model was trained, and blip for a given BLIP checkpoint "
        "whose tokenizer writes in lower case",
    )
    label_smoothing: Fraction = Field(0.1, description="label smoothing of the loss of the answers")
    augment: Augment = "randaugment"
    crop_area: CropArea = 0.5
    validate_every_steps: NonNegative = Field(
        0,
        description="steps between two looks at the questions of a tenth of the pictures, which are not trained on and "
        "whose best step is kept; 0: train on all, keep the last step",
    )
    num_beams: Count = Field(3, description="generate: beams of an answer; 1: greedy")
    rank_top_k: Count = Field(128, description="rank: number of likely answers whose whole likelihood is computed")
    answer_batch_size: Annotated[Count, Speed()] = Field(32, description="questions answered at a time")

    @model_validator(mode="after")
    def _has_whole_batches(self) -> VqaConfig:
        check_workers(1, None, self.optimizer.batch_size, self.optimizer.accumulate)
        return self
