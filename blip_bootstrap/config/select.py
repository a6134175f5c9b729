"""Which captions become pairs (section 3.3)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from blip_bootstrap.config.section import Count, Fraction, LocalPath, NonNegative, Section


class SelectConfig(Section):
    """Which captions become pairs; the paper's rule is the default."""

    strategy: Literal["threshold", "best_per_image", "top_k", "fraction", "target_noise"] = Field(
        "threshold", description="best_per_image and top_k choose among what the threshold leaves"
    )
    sources: tuple[Literal["web", "synthetic"], ...] = ("web", "synthetic")
    itm_threshold: Fraction = Field(0.5, description="the filter rejects a text below it")
    score: Literal["itm", "itc", "logprob", "clip"] = Field(
        "itm", description="what best_per_image, top_k, fraction rank by; clip needs caption.scorer"
    )
    top_k: Count = Field(1, description="top_k: texts kept of each image")
    keep_fraction: Fraction = Field(
        0.5, description="fraction: share of the scored texts that the cut leaves; of texts with its own score, all"
    )
    target_noise: Fraction = Field(0.1, description="target_noise: share of kept texts that may be wrong by the labels")
    labels: LocalPath | None = Field(None, description="target_noise: answered sample of `audit label`, Parquet")
    synthetic_share: Fraction | None = Field(None, description="thin out web or synthetic pairs to this share")
    explore_share: Fraction = Field(0.0, description="share of the texts below the threshold kept, against collapse")
    seed: int = Field(0, description="of the two above")
    min_tokens: NonNegative = Field(1, description="words")
    max_tokens: Count = Field(200, description="words")
    drop_flagged: bool = Field(True, description="drop synthetic texts that carry a flag")

    @model_validator(mode="after")
    def _has_labels(self) -> SelectConfig:
        if self.strategy == "target_noise" and self.labels is None:
            raise ValueError("strategy target_noise needs labels (`blip-bootstrap audit sample`, then `audit label`)")
        return self
