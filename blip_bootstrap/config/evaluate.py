"""What is measured of a round: the held-out figures, the controls and the page."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from blip_bootstrap.config.caption import SamplerConfig
from blip_bootstrap.config.section import SPEED, Count, Device, Dtype, NonNegative, Positive, Section


class EvaluateConfig(Section):
    """Figures on the held-out set."""

    batch_size: Count = 64
    device: Device = "auto"
    dtype: Dtype = "float32"
    rerank_top_k: NonNegative = Field(
        0, description="retrieval: the ITC top k are put in a new order (paper: 256, 128); 0: off"
    )
    rerank_by: Literal["itm", "lm"] = Field(
        "itm", description="itm: its logit (the paper); lm: what a picture adds to the decoder's likelihood of a text"
    )
    lm_weight: Positive = Field(0.02, description="rerank_by lm: of a nat, beside the ITC similarity (-1..1)")
    lm_references: Count = Field(
        12, description="rerank_by lm: pictures of the human set that stand for how likely a text is without a picture"
    )
    sampler: SamplerConfig = SamplerConfig(preset="beam")
    consensus_samples: NonNegative = Field(
        0,
        description="captions: so many are drawn too, and the sampler's beam is taken which they agree with; 0: off",
    )
    consensus_temperature: Positive = Field(0.7, description="of the captions drawn for consensus (nucleus, top_p .95)")
    consensus_itc_weight: Annotated[float, Field(ge=0)] = Field(
        0.0, description="of a beam's ITC similarity (-1..1), beside its agreement with the drawn captions (CIDEr)"
    )
    mirrored: bool = Field(
        False, description="pictures are seen as their mirror images too: ITC by both, half of consensus_samples each"
    )
    prompt: str = "a picture of"
    limit: Count | None = None
    meteor: bool = Field(False, description="needs java")
    seed: int = 0

    @property
    def wants_references(self) -> bool:
        """Whether retrieval is re-ranked by the decoder, with pictures of the human set beside."""
        return bool(self.rerank_top_k) and self.rerank_by == "lm"

    @model_validator(mode="after")
    def _has_beams(self) -> EvaluateConfig:
        beams = self.sampler.num_beams or (2 if self.sampler.preset == "beam" else 1)
        if self.consensus_samples and beams == 1:
            raise ValueError("consensus_samples chooses among beams; set sampler.preset beam or sampler.num_beams")
        return self


class ControlsConfig(Section):
    """The arms of the paper's Table 1, trained like the round's model on other pairs, for comparison."""

    arms: tuple[Literal["human_only", "filter_only", "captioner_only", "oracle"], ...] = ()
    num_parallel: Count = Field(1, description="arms trained at the same time", json_schema_extra=SPEED)


class ReportConfig(Section):
    """The page of a round."""

    num_gallery: NonNegative = Field(24, description="pictures in each gallery")
    seed: int = 0
