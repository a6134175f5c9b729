"""Floating-point operations that a training step needs, from the model's sizes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blip_bootstrap.config import ModelConfig

GRADIENT = 3
"""A product and its gradients by weight and by input: three products."""

STRIDE, CHANNELS = 32, 1280
"""The grid of an EfficientNet-Lite0, by which a ViT on top of it is counted."""


@dataclass(frozen=True)
class Flops:
    """Operations of a step: so many for each image, for each token, and for each token seen by each of its text.

    Counted is what the mathematics needs: multiplications and additions of products, for tokens without padding; each
    image's keys and values once for ITM and LM together; the gradients as twice the forward pass; no element-wise work,
    no optimizer and nothing that is computed again (activation checkpointing).
    """

    image: float
    token: float = 0.0
    square: float = 0.0

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.image + other.image, self.token + other.token, self.square + other.square)

    def __mul__(self, times: float) -> Flops:
        return Flops(times * self.image, times * self.token, times * self.square)

    def of(self, images: Any, tokens: Any, squares: Any) -> Any:
        """The operations of `images` images with one text each, `tokens` in all; `squares`: the sum of their squares.

        Numbers or tensors: a device need not be waited for.
        """
        return self.image * images + self.token * tokens + self.square * squares


def contrastive_flops(
    config: ModelConfig, num_tokens: int, num_compared: int, with_lm: bool = True, with_itm: bool = True
) -> Flops:
    """A training step on ITC and ITM, with LM or without, for each image of the batch with one text (section 3.2).

    `num_tokens` is the size of the vocabulary, `num_compared` the number of pairs that ITC compares with: the batch and
    the queue. ITM judges three pairs of each image. The convolutions of an EfficientNet are not counted.
    """
    first = config.itc_pooling == "first"
    texts = _text(config, first_alone=first) + _projections(config)
    trained = _image(config) + texts
    if with_itm:
        heads = Flops(3 * 2 * config.text.width * 2)
        trained += _keys(config) + (_text(config, first_alone=True) + _looks(config, first_alone=True)) * 3 + heads
    if with_lm:
        keys = _keys(config) * float(not with_itm or config.share in ("all_but_ca", "none"))
        trained += keys + _text(config) + _looks(config) + _lm_head(config, num_tokens, 0)
    similarity = Flops(2 * num_compared * config.embed_dim)  # no gradient goes to the momentum features
    slow = _image(config, first_alone=first) + texts
    return trained * GRADIENT + _stem(config) * -1 + slow + similarity * 6


def captioning_flops(config: ModelConfig, num_tokens: int, prompt_tokens: int = 0) -> Flops:
    """A training step on LM alone, for each image with one text; the prompt's tokens are no targets (section 3.3)."""
    trained = _image(config) + _keys(config) + _text(config) + _looks(config)
    return (trained + _lm_head(config, num_tokens, prompt_tokens)) * GRADIENT + _stem(config) * -1


def num_patches(config: ModelConfig) -> int:
    """Vectors of the image encoder's grid, without the first state."""
    vision = config.vision
    stride = vision.patch_size if vision.kind == "vit" else STRIDE
    return int((-(-vision.image_size // stride)) ** 2)


def _stem(config: ModelConfig) -> Flops:
    """What turns pixels, or the grid of an EfficientNet, into vectors: its input gets no gradient."""
    values = 3 * config.vision.patch_size**2 if config.vision.kind == "vit" else CHANNELS
    return Flops(2 * num_patches(config) * values * config.vision.width)


def _image(config: ModelConfig, first_alone: bool = False) -> Flops:
    """The image encoder; with `first_alone` its last block has but queries, keys and values of all states."""
    width, states = config.vision.width, num_patches(config) + 1
    projections, rest = 2 * states * 3 * width**2, 2 * states * 9 * width**2 + 4 * states**2 * width
    once = rest / states if first_alone and config.vision.depth else 0
    full = config.vision.depth - (1 if once else 0)
    return _stem(config) + Flops(config.vision.depth * projections + full * rest + once)


def _keys(config: ModelConfig) -> Flops:
    """Keys and values of an image for the cross-attention of each layer."""
    return Flops(2 * (num_patches(config) + 1) * config.vision.width * 2 * config.text.width * config.text.depth)


def _text(config: ModelConfig, first_alone: bool = False) -> Flops:
    """Self-attention and feed-forward of a text; with `first_alone` the last layer ends with the first token's."""
    width = config.text.width
    projections, rest = 2 * 3 * width**2, 2 * (width**2 + 2 * width * config.text.intermediate)
    full = config.text.depth - first_alone
    once = Flops(rest, 4 * width) if first_alone else Flops(0)
    return once + Flops(0, config.text.depth * projections + full * rest, full * 4 * width)


def _looks(config: ModelConfig, first_alone: bool = False) -> Flops:
    """Cross-attention of a text, but for keys and values; with `first_alone` of one token in the last layer."""
    width, states = config.text.width, num_patches(config) + 1
    each = 2 * 2 * width**2 + 4 * states * width
    return Flops(each if first_alone else 0, (config.text.depth - first_alone) * each)


def _lm_head(config: ModelConfig, num_tokens: int, prompt_tokens: int) -> Flops:
    """Logits of each token that is a target; the first is none."""
    each = 2 * (config.text.width**2 + config.text.width * num_tokens)
    return Flops(-each * (1 + prompt_tokens), each)


def _projections(config: ModelConfig) -> Flops:
    return Flops(2 * (config.vision.width + config.text.width) * config.embed_dim)
