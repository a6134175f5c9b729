"""Which captions become pairs (section 3.3)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from blip_bootstrap.config.marks import ByContent
from blip_bootstrap.config.section import Count, Fraction, LocalPath, NonNegative, Section, Seed

ScoreName = Literal[
    "itm", "itc", "logprob", "clip", "logprob_per_token", "lift", "agreement", "captioner_itc", "distinctness"
]
"""A score of a text; `query.verdicts.SCORE_COLUMNS` names its column of `captions`."""


class SelectConfig(Section):
    """Which captions become pairs; the default is the paper's rule."""

    strategy: Literal["threshold", "best_per_image", "top_k", "fraction", "target_noise"] = Field(
        "threshold",
        description="threshold: keep what scores itm_threshold or more; best_per_image, top_k: of those, the best of "
        "each image; fraction: the best keep_fraction of all texts; target_noise: find the threshold from labels",
    )
    sources: tuple[Literal["web", "synthetic"], ...] = Field(
        ("web", "synthetic"), description="which texts may become pairs"
    )
    itm_threshold: Fraction = Field(0.5, description="the filter rejects a text whose ITM score is below it")
    score: ScoreName = Field(
        "itm", description="score by which best_per_image, top_k and fraction rank; clip needs caption.scorer"
    )
    top_k: Count = Field(1, description="top_k: texts kept of each image")
    keep_fraction: Fraction = Field(
        0.5, description="fraction: share of the scored texts that are kept; of texts that tie at the cut, all are"
    )
    target_noise: Fraction = Field(
        0.1, description="target_noise: share of the kept texts that may be wrong, as estimated from labels"
    )
    labels: Annotated[LocalPath | None, ByContent()] = Field(
        None, description="target_noise: a sample answered by `audit label`, a Parquet file"
    )
    synthetic_share: Fraction | None = Field(
        None, description="thin out web or synthetic pairs until this share is synthetic; null: keep all"
    )
    explore_share: Fraction = Field(
        0.0, description="share of the texts below the threshold that are kept all the same, against collapse"
    )
    seed: Seed = Field(0, description="seed of the draws of synthetic_share and explore_share")
    min_tokens: NonNegative = Field(1, description="a text of fewer words is dropped")
    max_tokens: Count = Field(200, description="a text of more words is dropped")
    drop_flagged: bool = Field(True, description="drop synthetic texts that carry a flag")

    @model_validator(mode="after")
    def _has_labels(self) -> SelectConfig:
        if self.strategy == "target_noise" and self.labels is None:
            raise ValueError("strategy target_noise needs labels (`blip-bootstrap audit sample`, then `audit label`)")
        return self
