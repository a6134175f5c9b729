"""The causal reading of MED one token at a time, with preallocated keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor

    from blip_training.med import Med
    from blip_training.text_stack import SelfAttention


class IncrementalDecoder:
    """Texts of images being written; row r belongs to image r // (rows / images).

    An image's cross-attention keys and values are computed once, here, and shared by all of its rows.
    """

    def __init__(self, med: Med, states: Float[Tensor, "b p v"], max_tokens: int) -> None:
        self._med, self._max_tokens, self.length = med, max_tokens, 0
        pairs = med.text.image_keys_values(states, "causal")
        self._image = [(keys.contiguous(), values.contiguous()) for keys, values in pairs]
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self.num_images = states.shape[0]

    def prefill(self, prompt: list[int]) -> Float[Tensor, "b v"]:
        """Read the prompt, one row for each image; logits of the token after it."""
        ids = torch.tensor(prompt, device=self._image[0][0].device).repeat(self.num_images, 1)
        return self._read(ids)

    def step(self, tokens: Int64[Tensor, " n"]) -> Float[Tensor, "n v"]:
        """Append a token to each row; logits of the one after it."""
        return self._read(tokens[:, None])

    def repeat(self, times: int) -> None:
        """Each row becomes `times` rows in succession."""
        self._keys = [keys.repeat_interleave(times, dim=0) for keys in self._keys]
        self._values = [values.repeat_interleave(times, dim=0) for values in self._values]

    def take(self, rows: Int64[Tensor, " n"], images: Int64[Tensor, " b"] | None = None) -> None:
        """Go on with these rows, in this order, and with these images only (None: all of them)."""
        self._keys = [keys[rows] for keys in self._keys]
        self._values = [values[rows] for values in self._values]
        if images is not None and len(images) < self.num_images:
            self._image = [(keys[images], values[images]) for keys, values in self._image]
            self.num_images = len(images)

    def _read(self, ids: Int64[Tensor, "n t"]) -> Float[Tensor, "n v"]:
        stack, start = self._med.text, self.length
        x: Tensor = stack.embeddings.of("causal")(ids, start)
        self.length += ids.shape[1]
        for number, layer in enumerate(stack.each_layer()):
            x = self._self_attention(number, layer.self_attention.of("causal"), x, start)
            x = layer.cross_attention.of("causal")(x, self._image[number])
            x = layer.feed_forward.of("causal")(x)
        return self._med.lm_logits(x[:, -1]).float()

    def _self_attention(self, number: int, attention: SelfAttention, x: Tensor, start: int) -> Tensor:
        q, k, v = attention.project(x)
        if number == len(self._keys):
            shape = (*k.shape[:2], self._max_tokens, k.shape[3])
            self._keys.append(k.new_empty(shape))
            self._values.append(v.new_empty(shape))
        keys, values = self._keys[number], self._values[number]
        keys[:, :, start : self.length] = k
        values[:, :, start : self.length] = v
        seen = slice(0, self.length)
        attended = F.scaled_dot_product_attention(q, keys[:, :, seen], values[:, :, seen], is_causal=x.shape[1] > 1)
        return attention.finish(x, attended)
