"""Optimizer, losses, pre-training and fine-tuning (sections 3.2, 3.3 and 4.1)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from blip_bootstrap.config.model import ModelConfig
from blip_bootstrap.config.section import (
    LATER,
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

CropArea = Annotated[float, Field(gt=0, le=1)]


class OptimizerConfig(Section):
    """AdamW and its schedule, in optimizer steps (section 4.1)."""

    steps: NonNegative = 100_000
    batch_size: Count = Field(256, description="images per optimizer step, over all workers")
    accumulate: Count = Field(1, description="micro-batches per optimizer step")
    lr: Positive = 3e-4
    started_lr_scale: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="the learning rate of what model.*.start put in, over that of fresh weights; 0: it stays fixed"
    )
    fix_stem: bool = Field(
        False, description="efficientnet-lite0: the trained_blocks stay as the start has them, and their grid is kept"
    )
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: NonNegative = 3000
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    clip_norm: Positive | None = 1.0
    max_skipped_steps: Count = Field(
        10, json_schema_extra=SPEED,
        description="a step whose loss or gradient is not finite is skipped; after so many in a row training fails",
    )  # fmt: skip
    seed: int = 0
    device: Device = "auto"
    dtype: Dtype = Field("float32", description="auto: bfloat16 where the device is fast at it; weights stay float32")
    compile: bool = False
    activation_checkpointing: bool = False
    threads: NonNegative = Field(
        0, description="CPU threads of each worker; 0: its share of the cores", json_schema_extra=SPEED
    )
    checkpoint_every_steps: Count = Field(1000, json_schema_extra=SPEED)
    log_every_steps: Count = Field(20, json_schema_extra=SPEED)


EqualTexts = Literal["positives", "masked", "negatives"]


class ItcConfig(Section):
    """Image-text contrastive learning with a momentum encoder (section 3.2, after ALBEF)."""

    momentum: Fraction = 0.995
    queue_size: NonNegative = 57_600
    temperature: Annotated[float, Field(ge=0.001, le=0.5)] = 0.07
    min_temperature: Annotated[float, Field(ge=0.001, le=0.5)] = Field(
        0.001, description="the learned temperature falls no lower (the released code: .001)"
    )
    alpha: Fraction = Field(0.4, description="weight of the momentum model's soft targets")
    alpha_ramp_steps: NonNegative = Field(10_000, description="alpha rises from 0 over so many steps")
    equal_texts: EqualTexts = Field(
        "positives", description="what texts of other images are that equal an image's own (the paper: negatives)"
    )


class ItmConfig(Section):
    """Image-text matching with hard negatives (section 3.2)."""

    uniform_share: Fraction = Field(
        0.5, description="share of negatives drawn uniformly, the rest by ITC similarity (the paper: 0)"
    )
    mask_duplicate_texts: bool = Field(True, description="an equal text of another image is never a negative")
    start_step: NonNegative = Field(0, description="ITM joins the loss at this step, once ITC has aligned the two")
    negatives: Literal["worker", "all_workers"] = Field(
        "worker", description="where negatives are drawn from: a worker's micro-batch, or that of all workers together"
    )


class PretrainConfig(Section):
    """Pre-training of MED with ITC + ITM + LM (sections 3.2 and 4.1). `optimizer.steps: 0` leaves it out."""

    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    itc: ItcConfig = ItcConfig()
    itm: ItmConfig = ItmConfig()
    label_smoothing: Fraction = 0.1
    human_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of each batch from the human set; 0: in proportion to its size"
    )
    hold_out_validation: bool = Field(
        False, json_schema_extra=LATER,
        description="not trained on the tenth of the human set that fine-tuning chooses its best step by; on by itself "
        "where captioner or filter set validate_every_steps",
    )  # fmt: skip
    start_from: Literal["scratch", "previous"] = Field("scratch", description="the paper: scratch (Table 13)")
    augment: Literal["none", "crop", "randaugment"] = "randaugment"
    crop_area: CropArea = Field(
        0.2, description="the least share of a picture that augmentation's crop keeps (the released code: .2)"
    )
    augment_views: NonNegative = Field(
        0, description="frozen image stem: so many augmented views of a picture, their grids kept; 0: always new ones"
    )
    num_workers: Count = Field(1, description="training processes that share each batch")


class FinetuneConfig(Section):
    """Fine-tuning of a captioner or filter on the human set (section 3.3), or one that is given."""

    checkpoint: Source | None = Field(None, description="a given model: folder, .pth or hub name; no fine-tuning then")
    image_size: Count | None = Field(
        None, json_schema_extra=LATER,
        description="px of the tuned model's pictures; default: as pre-trained (paper: 384; store them as large)",
    )  # fmt: skip
    optimizer: OptimizerConfig = OptimizerConfig(steps=5000, lr=1e-5, warmup_steps=0, batch_size=256)
    itc: ItcConfig = ItcConfig(queue_size=57_600, alpha_ramp_steps=0)
    itm: ItmConfig = ItmConfig()
    prompt: str = "a picture of"
    label_smoothing: Fraction = 0.1
    word_dropout: Fraction = Field(
        0.0, description="captioner: share of the words read in training that are unknown to it; for small human sets"
    )
    augment: Literal["none", "crop", "randaugment"] = "randaugment"
    crop_area: CropArea = Field(0.5, description="the least share of a picture that augmentation's crop keeps")
    augment_views: NonNegative = Field(
        0, description="frozen image stem: so many augmented views of a picture, their grids kept; 0: always new ones"
    )
    validate_every_steps: NonNegative = Field(0, description="0: keep the last; else keep the best on validation")
    num_workers: Count = Field(1, description="training processes that share each batch")

    @model_validator(mode="after")
    def _is_tuned(self) -> FinetuneConfig:
        if self.checkpoint and self.image_size:
            raise ValueError("image_size is of fine-tuning; a given checkpoint keeps its own, leave image_size out")
        return self


class VqaConfig(Section):
    """Fine-tuning for visual question answering, and how questions are answered (section 5.4)."""

    optimizer: OptimizerConfig = OptimizerConfig(steps=5000, lr=2e-5, warmup_steps=0, batch_size=256)
    image_size: Count | None = Field(None, description="px; default: the start's own (paper: 480)")
    max_pixels: Count = Field(25_000_000, description="a larger picture is not decoded", json_schema_extra=LATER)
    decode_timeout_s: Positive = Field(
        10.0, description="seconds of processor time that decoding a picture may take", json_schema_extra=LATER
    )
    question_tokens: Annotated[int, Field(ge=4)] = Field(35, description="questions are cut here, specials included")
    answer_tokens: Annotated[int, Field(ge=3)] = Field(10, description="answers are cut here, specials included")
    normalise: Normalise = Field(
        "auto",
        description="how questions are shown to the model; none: as given; blip: lower case, few marks, 50 words; "
        "auto: as it was trained, blip for a given BLIP with a lower-case tokenizer",
    )
    label_smoothing: Fraction = 0.1
    augment: Literal["none", "crop", "randaugment"] = "randaugment"
    crop_area: CropArea = Field(0.5, description="the least share of a picture that augmentation's crop keeps")
    validate_every_steps: NonNegative = Field(
        0, description="0: keep the last; else keep the best on the questions of a tenth of the pictures"
    )
    num_beams: Count = Field(3, description="generate: beams of an answer; 1: greedy")
    rank_top_k: Count = Field(128, description="rank: answers whose whole likelihood is computed")
    answer_batch_size: Count = Field(32, description="questions answered at a time", json_schema_extra=SPEED)
