"""How `blip-bootstrap evaluate` measures a model on a public benchmark."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from blip_bootstrap.config.caption import SamplerConfig
from blip_bootstrap.settings.marks import Speed
from blip_bootstrap.settings.section import (
    Count,
    Device,
    Dtype,
    Fraction,
    LocalPath,
    NonNegative,
    Normalise,
    Section,
    Seed,
)

Task = Literal["captioning", "retrieval", "vqa", "nlvr"]


class BenchmarkConfig(Section):
    """How `blip-bootstrap evaluate` measures a model; what is null is as in the paper for the benchmark at hand."""

    tasks: tuple[Task, ...] = Field(
        (), description="those of the benchmark's tasks that are done; empty: all that the model can do"
    )
    split: Literal["test", "val"] = Field("test", description="the part of the benchmark, where it has both")
    image_root: LocalPath | None = Field(
        None, description="folder of the pictures or videos; null: they are looked for below the folder of the data"
    )
    batch_size: Annotated[Count, Speed()] = Field(64, description="pictures at a time, and four times as many texts")
    device: Annotated[Device, Speed()] = Field("auto", description="auto: a GPU where there is one")
    dtype: Dtype = Field("float32", description="number format of the model; auto: bfloat16 on a GPU, else float32")
    image_size: Count | None = Field(
        None,
        description="side of the pictures that the model sees, px; null: as in its checkpoint (paper: 384, and 480 for "
        "questions)",
    )
    max_pixels: Count = Field(200_000_000, description="a picture of more pixels is not decoded")
    normalise: Normalise = Field(
        "auto",
        description="how a text is changed before the model reads it; none: not at all; blip: lower case, without most "
        "punctuation, cut after 30 words (40 for videos and NLVR2); auto: as the model was trained",
    )
    text_tokens: Annotated[int, Field(ge=3)] = Field(
        35, description="retrieval: texts are cut to this many tokens, special ones included"
    )
    prompt: str | None = Field(
        None,
        description="captioning: what captions begin with; null: `a picture of`, and nothing for a pre-trained model, "
        "which matches pictures and texts too and never saw a prompt",
    )
    sampler: SamplerConfig | None = Field(
        None,
        description="captioning: how captions are written; null: three beams, 5 to 20 tokens, for nocaps with a "
        "repetition penalty of 1.1, as in the released code",
    )
    meteor: bool | None = Field(None, description="captioning: compute METEOR, which needs java; null: where java is")
    spice_jar: LocalPath | None = Field(
        None,
        description="captioning: spice-1.0.jar with its folder lib beside it, by which java computes SPICE; null: no "
        "SPICE",
    )
    rerank_top_k: NonNegative | None = Field(
        None,
        description="retrieval: this many of the best by ITC are ranked anew by ITM; 0: none; null: 256 for COCO, else "
        "128",
    )
    itm_threshold: Fraction = Field(
        0.5, description="retrieval: a pair matches from this ITM probability on, for precision and recall"
    )
    frames: Count | None = Field(
        None, description="videos: frames that the model sees, evenly spaced; null: 8 for retrieval, 16 for questions"
    )
    mode: Literal["generate", "rank"] = Field(
        "generate", description="questions: write each answer, or choose it from a list"
    )
    answers: LocalPath | None = Field(
        None,
        description="questions, rank: a file with one answer a line, or a JSON list; null: answer_list.json beside the "
        "questions",
    )
    rank_smoothing: Fraction = Field(
        0.1,
        description="questions, rank: label smoothing of the costs by which answers are compared, as in the released "
        "code; 0: likelihoods",
    )
    seed: Seed = Field(0, description="seed of sampled captions, and of the wrong texts by which ITM is measured")
