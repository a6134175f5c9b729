"""NLVR2: whether a sentence is true of two pictures, by an encoder with a cross-attention for each (section 5.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from blip_training.model.cross_attention import NORM_EPS, CrossAttention
from blip_training.model.dropout import Dropout
from blip_training.model.med import with_first
from blip_training.model.text_stack import Embeddings, FeedForward, SelfAttention
from blip_training.model.vision import VisionEncoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Bool, Float, Int64
    from torch import Tensor

    from blip_bootstrap.config import ModelConfig


class TwoImageAttention(nn.Module):
    """Two cross-attentions, the first over the first picture, the second over the second, made one.

    Each has its own projections. What both give is averaged, or with `merged` concatenated and projected to the text's
    width; one norm follows.
    """

    def __init__(self, width: int, vision_width: int, heads: int, dropout: float, merged: bool) -> None:
        super().__init__()
        self.first = CrossAttention(width, vision_width, heads, dropout)
        self.second = CrossAttention(width, vision_width, heads, dropout)
        del self.first.norm, self.second.norm
        self.merge = nn.Linear(2 * width, width) if merged else None
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "n t d"], first: Float[Tensor, "n p v"], second: Float[Tensor, "n p v"]
    ) -> Float[Tensor, "n t d"]:
        """Attend from each text to its two pictures."""
        pair = ((self.first, first), (self.second, second))
        seen = [own.output(own.attend_keys(own.query(x), own.keys_values(states))) for own, states in pair]
        both = (seen[0] + seen[1]) / 2 if self.merge is None else self.merge(torch.cat(seen, dim=-1))
        out: Tensor = self.norm(x + self.dropout(both))
        return out


class NlvrLayer(nn.Module):
    """One layer of the encoder: self-attention, cross-attention to two pictures, feed-forward."""

    def __init__(self, config: ModelConfig, merged: bool) -> None:
        super().__init__()
        text = config.text
        self.self_attention = SelfAttention(text.width, text.heads, text.dropout)
        self.cross_attention = TwoImageAttention(text.width, config.vision.width, text.heads, text.dropout, merged)
        self.feed_forward = FeedForward(text.width, text.intermediate, text.dropout)

    def forward(
        self,
        x: Float[Tensor, "n t d"],
        mask: Bool[Tensor, "n 1 1 t"],
        first: Float[Tensor, "n p v"],
        second: Float[Tensor, "n p v"],
    ) -> Float[Tensor, "n t d"]:
        """Read the text with both pictures."""
        out: Tensor = self.feed_forward(self.cross_attention(self.self_attention(x, mask), first, second))
        return out


class Nlvr(nn.Module):
    """The model of NLVR2: ViT, two-image encoder, and a head of two layers over the state of the first token.

    `merged` says of each layer whether its two cross-attentions are merged by a projection; the released model has one
    in layers 6 to 11 of 12 and averages before.
    """

    def __init__(self, config: ModelConfig, num_tokens: int, merged: tuple[bool, ...]) -> None:
        super().__init__()
        self.config, self.num_tokens, self.enc_id = config, num_tokens, num_tokens - 1
        text = config.text
        self.vision = VisionEncoder(config.vision)
        self.embeddings = Embeddings(num_tokens, text.width, text.max_positions, text.dropout)
        self.layers = nn.ModuleList(NlvrLayer(config, has) for has in merged)
        self.head = nn.Sequential(nn.Linear(text.width, text.width), nn.ReLU(), nn.Linear(text.width, 2))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.vision.class_token.device

    def encode_image(self, pixels: Tensor) -> Float[Tensor, "b p v"]:
        """Image states of uint8 pixels [B, 3, H, W] at config.vision.image_size, RGB."""
        return self.vision.from_grid(self.vision.stem(pixels.to(self.device, non_blocking=True)))

    def forward(
        self,
        first: Float[Tensor, "n p v"],
        second: Float[Tensor, "n p v"],
        ids: Int64[Tensor, "n t"],
        mask: Int64[Tensor, "n t"],
    ) -> Float[Tensor, "n 2"]:
        """Logits; column 1 says that the sentence is true of its two pictures. [ENC] replaces the first token."""
        x, seen = self.embeddings(with_first(ids, self.enc_id)), mask[:, None, None, :].bool()
        for layer in cast("Iterator[NlvrLayer]", iter(self.layers)):
            x = layer(x, seen, first, second)
        logits: Tensor = self.head(x[:, 0]).float()
        return logits
