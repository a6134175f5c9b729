"""The causal reading of MED one token at a time, with preallocated keys and values."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from blip_training.model.attention import attend

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float, Int64
    from torch import Tensor

    from blip_training.model.cross_attention import CrossAttention, KeyValue
    from blip_training.model.med import Med
    from blip_training.model.text_stack import SelfAttention


ROWS = 16
"""Every matrix product has a multiple of so many rows, the last of them padding. With fewer, BLAS libraries take other
kernels, whose sums end in other digits: a text would depend on how many others are written beside it."""

REGROUP_BELOW = 0.75
"""Finished rows and images leave once no more than this share stays: leaving copies the keys and values that stay."""


class IncrementalDecoder:
    """Texts of images being written; each row is one text, and stands at one of its image's slots.

    An image's cross-attention keys and values are computed once, here, and shared by all of its slots; if it has few
    slots, never: queries then absorb the projections (`CrossAttention`). A row that leaves keeps its slot, so that the
    shape of an image's products depends on the number of its candidates alone.
    """

    def __init__(self, med: Med, states: Float[Tensor, "b p v"], max_tokens: int, num_slots: int) -> None:
        self._med, self._max_tokens, self.length = med, max_tokens, 0
        self._states: Tensor | None = states
        self._image: list[KeyValue] = []
        # Reading all keys and values for one token takes as long as doing without them: the first row is free.
        if not next(med.text.each_layer()).cross_attention.of("causal").absorbs(states, (num_slots - 1) * max_tokens):
            self._states, made = None, med.text.image_keys_values(states, "causal")
            # Contiguous: read at every token. Strided, a token's attention took twice to five times as long on a CPU.
            self._image = [(keys.contiguous(), values.contiguous()) for keys, values in made]
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self.num_images, self._num_slots = states.shape[0], 1
        self._slots = torch.arange(states.shape[0], device=states.device)

    def prefill(self, prompt: list[int]) -> Float[Tensor, "b v"]:
        """Read the prompt into one row for each image; logits of the token after it."""
        ids = torch.tensor(prompt, device=self._slots.device).repeat(self.num_images, 1)
        return self._read(ids)

    def step(self, tokens: Int64[Tensor, " n"]) -> Float[Tensor, "n v"]:
        """Append one token to each row; logits of the token after it."""
        return self._read(tokens[:, None])

    def repeat(self, times: int) -> None:
        """Copy each row, so that `times` of it stand in succession."""
        self._keys = [keys.repeat_interleave(times, dim=0) for keys in self._keys]
        self._values = [values.repeat_interleave(times, dim=0) for values in self._values]
        self._num_slots = times
        self._slots = torch.arange(self.num_images * times, device=self._slots.device)

    def take(self, rows: Int64[Tensor, " n"], images: Int64[Tensor, " b"]) -> None:
        """Keep these images, and put these rows into their slots in this order (for beam search)."""
        self._keep_rows(rows)
        self._keep_images(images)
        self._slots = torch.arange(len(rows), device=rows.device)

    def leave(self, rows: Int64[Tensor, " n"]) -> None:
        """Keep these rows alone; images that no row attends to leave once they are a quarter of all."""
        self._keep_rows(rows)
        self._slots = self._slots[rows]
        images, places = torch.unique(self._slots // self._num_slots, return_inverse=True)
        if len(images) <= REGROUP_BELOW * self.num_images:
            self._slots = places * self._num_slots + self._slots % self._num_slots
            self._keep_images(images)

    def _keep_rows(self, rows: Tensor) -> None:
        self._keys = [keys[rows] for keys in self._keys]
        self._values = [values[rows] for values in self._values]

    def _keep_images(self, images: Tensor) -> None:
        if len(images) < self.num_images:
            self._image = [(keys[images], values[images]) for keys, values in self._image]
            self._states = None if self._states is None else self._states[images]
            self.num_images = len(images)

    def _read(self, ids: Int64[Tensor, "n t"]) -> Float[Tensor, "n v"]:
        stack, start, num_rows = self._med.text, self.length, ids.shape[0]
        x: Tensor = stack.embeddings.of("causal")(_padded(ids), start)
        self.length += ids.shape[1]
        for number, layer in enumerate(stack.each_layer()):
            x = self._self_attention(number, layer.self_attention.of("causal"), x, start, num_rows)
            x = self._cross_attention(number, layer.cross_attention.of("causal"), x, num_rows)
            x = layer.feed_forward.of("causal")(x)
        return self._med.lm_logits(x[:, -1])[:num_rows].float()

    def _self_attention(self, number: int, attention: SelfAttention, x: Tensor, start: int, num_rows: int) -> Tensor:
        q, k, v = (one[:num_rows] for one in attention.project(x))
        if number == len(self._keys):
            shape = (*k.shape[:2], self._max_tokens, k.shape[3])
            self._keys.append(k.new_empty(shape))
            self._values.append(v.new_empty(shape))
        keys, values = self._keys[number], self._values[number]
        keys[:, :, start : self.length] = k
        values[:, :, start : self.length] = v
        seen = slice(0, self.length)
        attended = attend(q, keys[:, :, seen], values[:, :, seen], is_causal=x.shape[1] > 1)
        return attention.finish(x, _padded(attended))

    def _cross_attention(self, number: int, attention: CrossAttention, x: Tensor, num_rows: int) -> Tensor:
        """Cross-attention, with the queries of all of an image's slots in one row."""
        if self._states is None:
            attend_keys = partial(attention.attend_keys, image=self._image[number])
            attended = self._in_slots(attention.query(x)[:num_rows], attend_keys)
            return attention.finish(x, _padded(attended))
        queries = attention.absorb_query(x)[:num_rows]
        self._states = self._states.to(queries.dtype)
        means = self._in_slots(queries, partial(attention.attend_states, states=self._states))
        return attention.finish(x, attention.project_values(_padded(means)))

    def _in_slots(self, rows: Float[Tensor, "n ..."], read: Callable[[Tensor], Tensor]) -> Float[Tensor, "n ..."]:
        """Apply `read` to the rows' queries, which it takes as one row [M, width] of all slots for each image."""
        slots, num_slots = self._slots, self.num_images * self._num_slots
        full = rows.shape[0] == num_slots
        placed = rows if full else rows.new_zeros(num_slots, *rows.shape[1:]).index_copy(0, slots, rows)
        attended = read(placed.reshape(self.num_images, -1, rows.shape[-1])).reshape(placed.shape)
        return attended if full else attended[slots]


def _padded(rows: Tensor) -> Tensor:
    """Append rows of zeros up to a multiple of ROWS."""
    lacking = -rows.shape[0] % ROWS
    return torch.cat([rows, rows.new_zeros(lacking, *rows.shape[1:])]) if lacking else rows
