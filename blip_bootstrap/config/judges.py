"""Judges beside the filter, of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, JsonValue

from blip_bootstrap.paths import SCORE_NAME
from blip_bootstrap.settings.marks import ToldByDigest
from blip_bootstrap.settings.section import Section


class JudgeConfig(Section):
    """A judge beside the filter: its scores of every text stand in the column `scores` under its name."""

    name: Annotated[str, Field(pattern=SCORE_NAME)] = Field(
        description="what its score is called in the tables and by select.score; of a judge with several scores, "
        "NAME_SCORE each: lower case letters, digits, underscores"
    )
    kind: str = Field(
        description="dual_encoder, vqa_score, endpoint_vqa_score, blip_itm, blip_itc, or what an installed package "
        "brings (entry point blip_bootstrap.judges)"
    )
    options: Annotated[Mapping[str, JsonValue], ToldByDigest()] = Field(
        {}, description="what this kind takes, as {checkpoint: OWNER/NAME}; recipes hold the digest that it makes of it"
    )
