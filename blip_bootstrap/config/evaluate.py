"""How a round is measured and shown: the held-out figures, the controls and the page."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from blip_bootstrap.config.caption import SamplerConfig
from blip_bootstrap.settings.marks import Speed
from blip_bootstrap.settings.section import Count, Device, Dtype, NonNegative, Positive, Section, Seed


class EvaluateConfig(Section):
    """How the round's model is measured on the held-out set."""

    batch_size: Count = Field(64, description="pictures or texts at a time")
    device: Device = Field("auto", description="auto: a GPU where there is one")
    dtype: Dtype = Field(
        "float32", description="number format of the model; auto: bfloat16 where the device is fast at it"
    )
    rerank_top_k: NonNegative = Field(
        0,
        description="retrieval: this many of the best by ITC are ranked anew by rerank_by (paper: 256 for COCO, 128 "
        "for Flickr30K); 0: off",
    )
    rerank_by: Literal["itm", "lm"] = Field(
        "itm",
        description="itm: by the ITM logit, as in the paper; lm: by how much likelier the decoder finds a text for "
        "seeing the picture",
    )
    lm_weight: Positive = Field(
        0.02, description="rerank_by lm: weight of a nat of likelihood beside the ITC similarity (-1..1)"
    )
    lm_references: Count = Field(
        12,
        description="rerank_by lm: pictures of the human set; a text's mean likelihood over them stands for its "
        "likelihood without a picture",
    )
    sampler: SamplerConfig = SamplerConfig(preset="beam")
    consensus_samples: NonNegative = Field(
        0,
        description="captions drawn of each picture beside the beams; the beam that agrees with them best is the "
        "caption; 0: off, the likeliest beam",
    )
    consensus_temperature: Positive = Field(
        0.7, description="temperature at which the captions of consensus_samples are drawn (nucleus, top-p .95)"
    )
    consensus_itc_weight: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="weight of a beam's ITC similarity (-1..1) beside its agreement with the drawn captions (CIDEr)",
    )
    mirrored: bool = Field(
        False,
        description="see the mirror image of each picture too: ITC embeds both, and half of consensus_samples are "
        "drawn of each",
    )
    prompt: str = Field("a picture of", description="what captions begin with")
    limit: Count | None = Field(None, description="use only the first pictures of the held-out set; null: all")
    meteor: bool = Field(False, description="compute METEOR, which needs java")
    seed: Seed = Field(0, description="seed of the captions that are drawn")

    @property
    def wants_references(self) -> bool:
        """Whether the decoder re-ranks retrieval, for which pictures of the human set are needed."""
        return bool(self.rerank_top_k) and self.rerank_by == "lm"

    @model_validator(mode="after")
    def _has_beams(self) -> EvaluateConfig:
        beams = self.sampler.num_beams or (2 if self.sampler.preset == "beam" else 1)
        if self.consensus_samples and beams == 1:
            raise ValueError("consensus_samples chooses among beams; set sampler.preset beam or sampler.num_beams")
        return self


class ControlsConfig(Section):
    """The arms of the paper's Table 1: models trained like the round's on other pairs, for comparison."""

    arms: tuple[Literal["human_only", "filter_only", "captioner_only", "paper_rule", "oracle"], ...] = Field(
        (), description="which models to train for comparison with the round's; each costs one pre-training"
    )
    num_parallel: Annotated[Count, Speed()] = Field(1, description="arms trained at the same time")


class ReportConfig(Section):
    """The page of a round."""

    num_gallery: NonNegative = Field(24, description="pictures in each gallery")
    seed: Seed = Field(0, description="seed of the choice of pictures for the galleries")
