"""The sizes of MED and what it starts from (section 3.1)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from blip_bootstrap.settings.marks import Later
from blip_bootstrap.settings.section import Count, Fraction, ModelName, NonNegative, Section


class VisionConfig(Section):
    """The image encoder: a ViT, or the grid of an EfficientNet-Lite0 with a few ViT blocks on top (`mini`)."""

    kind: Literal["vit", "efficientnet-lite0"] = Field(
        "vit", description="a ViT, or the grid of a pre-trained EfficientNet-Lite0 with a few ViT blocks on top"
    )
    image_size: Count = Field(224, description="side of the square picture that the model sees, px")
    patch_size: Count = Field(16, description="side of a ViT's patch, px")
    width: Count = Field(768, description="width of the hidden states")
    depth: NonNegative = Field(12, description="number of ViT blocks")
    heads: Count = Field(12, description="attention heads of each block")
    drop_path: Fraction = Field(
        0.0, description="share of residual branches left out in training (stochastic depth), highest in the last block"
    )
    grid_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="efficientnet-lite0: share of the grid's channels that training leaves out of each picture"
    )
    trained_blocks: Annotated[int, Field(ge=0, le=15)] = Field(
        0, description="efficientnet-lite0: how many of its 16 blocks are trained, counted from the last; 0: none"
    )
    start: ModelName | None = Field(
        None,
        description="a ViT in transformers format to start from: a folder, package:NAME (an installed package that "
        "has one) or hub name; null: fresh weights",
    )

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

    tokenizer: ModelName = Field(
        "bert-base-uncased",
        description="a BERT tokenizer: a folder, a vocab.txt, package:NAME (an installed package that has one) or hub "
        "name",
    )
    vocabulary: Annotated[Literal["whole", "seen"], Later()] = Field(
        "whole",
        description="word pieces of a fresh model. whole: all of the tokenizer's; seen: those of the human captions "
        "and of all alt texts, and letters for other words: faster, where a run's words are few",
    )
    least_seen: Annotated[Count, Later()] = Field(
        1, description="vocabulary seen: a word piece that fewer texts have is written in shorter ones"
    )
    width: Count = Field(768, description="width of the hidden states")
    depth: Count = Field(12, description="number of layers")
    heads: Count = Field(12, description="attention heads of each layer")
    intermediate: Count = Field(3072, description="width of the feed-forward layers")
    max_tokens: Annotated[int, Field(ge=8)] = Field(
        30, description="training texts are cut to this many tokens, special ones included"
    )
    max_positions: Count = Field(512, description="tokens of the longest text that the model can read or write")
    dropout: Fraction = Field(0.1, description="dropout of the text layers in training")
    start: ModelName | None = Field(
        None,
        description="a BERT in transformers format to start from: a folder, package:NAME (an installed package that "
        "has one) or hub name; null: fresh weights",
    )
    tied_output: Annotated[bool, Later()] = Field(
        True, description="the decoder's output layer is the word embeddings, as in the paper; false: its own weights"
    )
    normalise: Annotated[Literal["none", "blip"], Later()] = Field(
        "none",
        description="how texts are changed before the model reads them; blip: as in the released code, lower case, "
        '. ! " ( ) * # : ; ~ as spaces, cut after 30 words',
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
    embed_dim: Count = Field(256, description="width of the ITC embeddings")
    itc_pooling: Literal["first", "mean"] = Field(
        "first", description="what ITC embeds: the first state, as in the paper, or the mean over patches and tokens"
    )
    share: Literal["all", "all_but_ca", "all_but_sa", "none"] = Field(
        "all_but_sa",
        description="which layers the text encoder and decoder share (Table 3; sa: self-attention, ca: "
        "cross-attention); the paper's choice is all_but_sa",
    )
    itc_in_itm: bool = Field(False, description="add the ITC similarity to the ITM logit, which the paper does not")
