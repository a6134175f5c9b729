"""The sizes of MED and what it starts from (section 3.1)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from blip_bootstrap.config.section import LATER, Count, Fraction, NonNegative, Section, Source


class VisionConfig(Section):
    """The image encoder: a ViT, or the grid of an EfficientNet-Lite0 with a few ViT blocks on top (`mini`)."""

    kind: Literal["vit", "efficientnet-lite0"] = "vit"
    image_size: Count = 224
    patch_size: Count = 16
    width: Count = 768
    depth: NonNegative = 12
    heads: Count = 12
    drop_path: Fraction = 0.0
    grid_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="efficientnet-lite0: share of the grid's channels that training leaves out of a picture"
    )
    trained_blocks: Annotated[int, Field(ge=0, le=15)] = Field(
        0, description="efficientnet-lite0: so many of its 16 blocks, the last, are trained; the others stay frozen"
    )
    start: Source | None = Field(None, description="folder or hub name of a ViT in transformers format")

    @model_validator(mode="after")
    def _fits(self) -> VisionConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.kind == "vit" and self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.kind == "vit" and self.trained_blocks:
            raise ValueError("trained_blocks is of kind efficientnet-lite0; a ViT is trained as a whole")
        return self


class TextConfig(Section):
    """The text stack: BERT with cross-attention, two sets of self-attention (section 3.1)."""

    tokenizer: Source = Field("bert-base-uncased", description="folder, vocab.txt or hub name of a BERT tokenizer")
    width: Count = 768
    depth: Count = 12
    heads: Count = 12
    intermediate: Count = 3072
    max_tokens: Annotated[int, Field(ge=8)] = Field(30, description="training texts are cut here, specials included")
    max_positions: Count = 512
    dropout: Fraction = 0.1
    start: Source | None = Field(None, description="folder or hub name of a BERT in transformers format")
    tied_output: bool = Field(
        True,
        description="the decoder's output layer is the word embeddings (the paper's); false: weights of its own",
        json_schema_extra=LATER,
    )
    normalise: Literal["none", "blip"] = Field(
        "none",
        description='blip: texts are seen as by the released code: lower case, . ! " ( ) * # : ; ~ as spaces, 30 words',
        json_schema_extra=LATER,
    )

    @model_validator(mode="after")
    def _fits(self) -> TextConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.max_tokens > self.max_positions:
            raise ValueError(f"max_tokens {self.max_tokens} is more than max_positions {self.max_positions}")
        return self


class ModelConfig(Section):
    """MED, the multimodal mixture of encoder-decoder (section 3.1)."""

    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    embed_dim: Count = Field(256, description="of the ITC embeddings")
    itc_pooling: Literal["first", "mean"] = Field(
        "first", description="what ITC embeds: the first state (the paper's), or the mean over patches and over tokens"
    )
    share: Literal["all", "all_but_ca", "all_but_sa", "none"] = Field(
        "all_but_sa", description="what the text encoder and decoder share (Table 3); the paper's is all_but_sa"
    )
    itc_in_itm: bool = Field(False, description="add the ITC similarity to the ITM logit; departs from the paper")
