"""Optimizer, losses, pre-training and fine-tuning (sections 3.2, 3.3 and 4.1)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from blip_bootstrap.config.hard_texts import HardTextsConfig
from blip_bootstrap.config.model import ModelConfig
from blip_bootstrap.settings.marks import IdleWhere, Later, Speed
from blip_bootstrap.settings.section import (
    Count,
    Device,
    Dtype,
    Fraction,
    LocalPath,
    MinWorkers,
    ModelName,
    NonNegative,
    NumWorkers,
    Positive,
    Section,
    Seed,
    check_at_most,
    check_workers,
)

Augment = Annotated[
    Literal["none", "crop", "randaugment"],
    Field(
        description="how pictures are changed in training; none: not at all; crop: random crop and flip; randaugment: "
        "two random operations besides"
    ),
]

CropArea = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        description="smallest share of a picture that the random crop keeps (the released code: .2 in pre-training, .5 "
        "in fine-tuning)",
    ),
    IdleWhere("augment", "none"),  # recipes of the first versions hold no crop_area
]


TrackerName = Literal["tensorboard", "wandb", "trackio"]
"""A tracker of experiments outside of this package."""


class OptimizerConfig(Section):
    """AdamW and its schedule, in optimizer steps (section 4.1)."""

    steps: NonNegative = Field(100_000, description="optimizer steps of the whole training")
    batch_size: Count = Field(256, description="images per optimizer step, over all workers")
    accumulate: Count = Field(1, description="micro-batches per optimizer step")
    lr: Positive = Field(3e-4, description="learning rate after the warm-up")
    started_lr_scale: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0,
        description="learning rate of the weights that model.*.start gave, as a multiple of that of fresh weights; 0: "
        "they stay as they are",
    )
    fix_stem: bool = Field(
        False,
        description="efficientnet-lite0: train none of its blocks, trained_blocks included, and keep its grids of the "
        "pictures",
    )
    grids: Annotated[LocalPath | None, Speed()] = Field(
        None,
        description="efficientnet-lite0 without augmentation: a folder where the pictures' grids are kept for other "
        "trainings, some 90 kB each at 192 px; null: each training computes its own",
    )
    min_lr: Annotated[float, Field(ge=0)] = Field(0.0, description="learning rate at the end")
    warmup_steps: NonNegative = Field(3000, description="steps over which the learning rate rises from 0")
    warmup_lr: Annotated[float, Field(ge=0), Later()] = Field(
        0.0, description="learning rate of the warm-up's first step (the released code: 1e-6); 0: lr / warmup_steps"
    )
    schedule: Literal["cosine", "exponential", "constant"] = Field(
        "cosine", description="how the learning rate falls after the warm-up"
    )
    decay_every_steps: Annotated[Count, Later()] = Field(
        1,
        description="steps between two changes of the learning rate, counted from the first step; the released code "
        "changes it once an epoch; 1: at every step after the warm-up",
    )
    decay_rate: Annotated[float | None, Field(gt=0, le=1), Later()] = Field(
        None,
        description="exponential: what the learning rate is multiplied by at each change, down to min_lr (the released "
        "pre-training: .9); null: what leads to min_lr, or a hundredth of lr, at the end",
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.05, description="weight decay of AdamW")
    decayed: Annotated[Literal["matrices", "all"], Later()] = Field(
        "matrices",
        description="what weight_decay acts on; matrices: not on biases, norms and the temperature; all: on these too, "
        "as in the released code",
    )
    ema: Annotated[float, Field(ge=0, lt=1), Later()] = Field(
        0.0,
        description="the model that is saved, and validated, has the running mean of the weights, which keeps this "
        "share of itself at each step (.9999, say); 0: the last weights, as the paper",
    )
    clip_norm: Positive | None = Field(1.0, description="gradients are scaled down to this norm; null: they are not")
    max_skipped_steps: Annotated[Count, Speed()] = Field(
        10,
        description="a step whose loss or gradient is not finite is skipped; after this many in a row training fails",
    )
    seed: Seed = Field(
        0, description="seed of fresh weights, of the order of the pairs, of dropout and of augmentation"
    )
    device: Device = Field("auto", description="auto: a GPU where there is one")
    dtype: Dtype = Field(
        "float32",
        description="number format of the computation; auto: bfloat16 where the device is fast at it; weights stay "
        "float32",
    )
    compile: bool = Field(False, description="compile the blocks of the model by torch.compile")
    activation_checkpointing: bool = Field(
        False, description="compute activations again for the gradients: less memory, more time"
    )
    threads: Annotated[NonNegative, Speed()] = Field(
        0, description="CPU threads of each worker; 0: its share of the cores"
    )
    checkpoint_every_steps: Annotated[Count, Speed()] = Field(
        1000, description="steps between two checkpoints; a training that was killed goes on from the last one"
    )
    stall_timeout_s: Annotated[Positive, Speed()] = Field(
        600.0,
        description="several workers: seconds after which one that stands still is told, and all begin again from the "
        "last checkpoint",
    )
    log_every_steps: Annotated[Count, Speed()] = Field(
        20, description="steps between two lines of losses in metrics.jsonl"
    )
    trackers: Annotated[tuple[TrackerName, ...], Speed()] = Field(
        (), description="where the lines of metrics.jsonl go as well: tensorboard, wandb, trackio"
    )
    tracker_project: Annotated[str, Speed()] = Field(
        "blip-bootstrap", min_length=1, description="wandb and trackio: the project of the training's run"
    )

    @model_validator(mode="after")
    def _decays(self) -> OptimizerConfig:
        if self.decay_rate is not None and self.schedule != "exponential":
            raise ValueError(f"decay_rate is of schedule exponential, and schedule is {self.schedule}; leave one out")
        check_at_most(self, "min_lr", "lr")
        check_at_most(self, "warmup_lr", "lr")
        return self


EqualTexts = Literal["positives", "masked", "negatives"]


class ItcConfig(Section):
    """Image-text contrastive learning with a momentum encoder (section 3.2, after ALBEF)."""

    momentum: Fraction = Field(
        0.995, description="share of its old weights that the momentum encoder keeps at each step"
    )
    queue_size: NonNegative = Field(
        57_600, description="embeddings of earlier batches that serve as further negatives; 0: none"
    )
    temperature: Annotated[float, Field(ge=0.001, le=0.5)] = Field(
        0.07, description="temperature at the start; it is learned"
    )
    min_temperature: Annotated[float, Field(ge=0.001, le=0.5)] = Field(
        0.001, description="the learned temperature falls no lower (the released code: .001)"
    )
    alpha: Fraction = Field(0.4, description="weight of the momentum model's soft targets")
    alpha_ramp_steps: NonNegative = Field(10_000, description="steps over which alpha rises from 0")
    equal_texts: EqualTexts = Field(
        "positives",
        description="how another image's text counts that equals the image's own: as its positive, not at all "
        "(masked), or as its negative (the paper)",
    )

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        check_at_most(self, "min_temperature", "temperature")
        return self


class ItmConfig(Section):
    """Image-text matching with hard negatives (section 3.2)."""

    uniform_share: Fraction = Field(
        0.5, description="share of the negatives drawn uniformly, the others by ITC similarity (the paper: 0)"
    )
    mask_duplicate_texts: bool = Field(
        True, description="never draw as a negative another image's text that equals the image's own"
    )
    start_step: NonNegative = Field(
        0, description="step at which ITM joins the loss; later where ITC is to align the encoders first"
    )
    negatives: Literal["worker", "all_workers"] = Field(
        "worker", description="draw negatives from a worker's own micro-batch, or from those of all workers"
    )


class SourceWeightsConfig(Section):
    """The shares of the epochs that texts of a source are in; with `texts_per_image: one` how likely they are drawn."""

    web: Fraction = Field(1.0, description="share of the epochs that a kept web text is in, 0..1")
    synthetic: Fraction = Field(1.0, description="share of the epochs that a kept synthetic text is in, 0..1")


class PretrainConfig(Section):
    """Pre-training of MED with ITC + ITM + LM (sections 3.2 and 4.1). `optimizer.steps: 0` leaves it out."""

    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    itc: ItcConfig = ItcConfig()
    itm: ItmConfig = ItmConfig()
    label_smoothing: Fraction = Field(0.1, description="label smoothing of the language-modelling loss")
    human_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of each batch that comes from the human set; 0: in proportion to its size"
    )
    texts_per_image: Annotated[Literal["all", "one"], Later()] = Field(
        "all",
        description="all: an epoch has every kept text of a picture; one: one of them, drawn anew in each epoch, so "
        "that every picture counts the same",
    )
    source_weights: Annotated[SourceWeightsConfig, Later()] = Field(
        SourceWeightsConfig(),
        description="how often training draws kept web and synthetic texts, beside select.weights; "
        "select.synthetic_share throws texts away instead",
    )
    hold_out_validation: Annotated[bool, Later()] = Field(
        False,
        description="leave out the tenth of the human set by which fine-tuning chooses its best step; where captioner "
        "or filter set validate_every_steps, true by default",
    )
    start_from: Literal["scratch", "previous"] = Field(
        "scratch", description="start each round's model from scratch, as the paper does (Table 13), or from the last"
    )
    image_size: Annotated[Count | None, Later()] = Field(
        None,
        description="start_from previous: side of the pictures that the model goes on with, px, as in a second stage "
        "of larger pictures; null: as before; from scratch it is model.vision.image_size",
    )
    augment: Augment = "randaugment"
    crop_area: CropArea = 0.2
    augment_views: NonNegative = Field(
        0,
        description="efficientnet-lite0 with a frozen grid: augmented views of each picture, whose grids are kept; 0: "
        "a new view each time",
    )
    num_workers: NumWorkers = 1
    min_workers: MinWorkers = None

    @model_validator(mode="after")
    def _goes_on(self) -> Self:
        if self.image_size and self.start_from == "scratch":
            raise ValueError("image_size is of start_from: previous; from scratch set model.vision.image_size")
        return self

    @model_validator(mode="after")
    def _has_workers(self) -> Self:
        check_workers(self.num_workers, self.min_workers, self.optimizer.batch_size, self.optimizer.accumulate)
        return self


class FinetuneConfig(Section):
    """Fine-tuning of a captioner or filter on the human set (section 3.3), or a given one instead."""

    checkpoint: ModelName | None = Field(
        None, description="a given model instead of fine-tuning: a folder, a .pth file or a hub name"
    )
    image_size: Annotated[Count | None, Later()] = Field(
        None,
        description="side of the pictures that the tuned model sees, px; null: as in pre-training (paper: 384); store "
        "the pictures as large",
    )
    optimizer: OptimizerConfig = OptimizerConfig(steps=5000, lr=1e-5, warmup_steps=0, batch_size=256)
    itc: ItcConfig = ItcConfig(queue_size=57_600, alpha_ramp_steps=0)
    itm: ItmConfig = ItmConfig()
    prompt: str = Field("a picture of", description="what captions begin with, in training and afterwards")
    label_smoothing: Fraction = Field(0.1, description="label smoothing of the language-modelling loss")
    word_dropout: Fraction = Field(
        0.0,
        description="captioner: share of the words that the decoder reads as [UNK] in training; it helps small human "
        "sets",
    )
    augment: Augment = "randaugment"
    crop_area: CropArea = 0.5
    augment_views: NonNegative = Field(
        0,
        description="efficientnet-lite0 with a frozen grid: augmented views of each picture, whose grids are kept; 0: "
        "a new view each time",
    )
    validate_every_steps: NonNegative = Field(
        0,
        description="steps between two looks at a tenth of the human set that is not trained on, whose best step is "
        "kept; 0: train on all, keep the last step",
    )
    hard_texts: Annotated[HardTextsConfig, Later()] = Field(
        HardTextsConfig(), description="filter: wrong texts that are hard to tell, beside the batch's own negatives"
    )
    shared: Annotated[bool, Later()] = Field(
        False,
        description="filter: no model of its own; the captioner is tuned by ITC, ITM and LM, with the captioner's "
        "settings, and is the filter, too (Table 4; the paper's are two)",
    )
    num_workers: NumWorkers = 1
    min_workers: MinWorkers = None

    @model_validator(mode="after")
    def _has_workers(self) -> Self:
        check_workers(self.num_workers, self.min_workers, self.optimizer.batch_size, self.optimizer.accumulate)
        return self

    @model_validator(mode="after")
    def _is_tuned(self) -> FinetuneConfig:
        if self.checkpoint and self.image_size:
            raise ValueError("image_size is of fine-tuning; a given checkpoint keeps its own, leave image_size out")
        if self.checkpoint and self.hard_texts != HardTextsConfig():
            raise ValueError("hard_texts are of fine-tuning; a given checkpoint is not trained, leave hard_texts out")
        return self
