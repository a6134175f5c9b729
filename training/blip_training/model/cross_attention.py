"""Cross-attention from text to image, with keys and values or with their projections absorbed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from blip_training.model.attention import attend
from blip_training.model.dropout import Dropout
from blip_training.model.onednn import Linear, over_patches

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


NORM_EPS = 1e-12

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of images, each [B, heads, P, width / heads]."""


class CrossAttention(nn.Module):
    """Attention of texts over image states (the cross-attention of section 3.1).

    Two ways give one result. The usual one projects each image's states to keys and values (`keys_values`) and attends
    to them (`attend_keys`). The absorbed one leaves the states as they are: since q . (W s) = (W^T q) . s, the key
    projection W can be applied to the query (`absorb_query`), and since the mean of W s is W times the mean of s, the
    value projection to what was attended (`project_values`). The key's bias adds the same number to all similarities of
    a query, which the softmax cancels. There are as many keys and values as patches, so that few queries cost less
    absorbed; and where a text is written token by token, only the states are read from memory each time.
    """

    def __init__(self, width: int, vision_width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(width, width)
        self.key_value = Linear(vision_width, 2 * width)
        self.output = Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = Dropout(dropout)

    def keys_values(self, states: Float[Tensor, "b p v"]) -> KeyValue:
        """Keys and values [B, heads, P, d/heads] of image states, to be computed once per image."""
        b, p, _ = states.shape
        both = over_patches(self.key_value, states)
        k, v = both.view(b, p, 2, self.heads, both.shape[2] // (2 * self.heads)).permute(2, 0, 3, 1, 4).unbind(0)
        return k, v

    def forward(
        self, x: Float[Tensor, "n t d"], image: KeyValue | Tensor, seen: Bool[Tensor, "b 1 1 p"] | None = None
    ) -> Float[Tensor, "n t d"]:
        """Attend from texts `x` to images: row r to image r // (N / B).

        `image` is what `keys_values` made, or image states [B, P, V], which are attended to by absorbed queries. `seen`
        is true for the patches that may be attended to; None: all. An image's K rows are computed as one row of K*T
        queries.
        """
        b = (image if isinstance(image, torch.Tensor) else image[0]).shape[0]
        if isinstance(image, torch.Tensor):
            queries = self.absorb_query(x)
            means = self.attend_states(queries.reshape(b, -1, image.shape[2]), image, seen)
            return self.finish(x, self.project_values(means.view_as(queries)))
        queries = self.query(x).view(b, -1, x.shape[2])
        return self.finish(x, self.attend_keys(queries, image, seen).reshape(x.shape))

    def attend_keys(
        self, queries: Float[Tensor, "b m d"], image: KeyValue, seen: Bool[Tensor, "b 1 1 p"] | None = None
    ) -> Float[Tensor, "b m d"]:
        """Attend by head to an image's keys and values."""
        keys, values = image
        dropped = self.dropout.p if self.training else 0.0
        by_head = queries.view(*queries.shape[:2], self.heads, -1).transpose(1, 2)
        return attend(by_head, keys, values, seen, dropped).transpose(1, 2).flatten(2)

    def absorbs(self, states: Float[Tensor, "b p v"], num_queries: int) -> bool:
        """Whether `num_queries` queries of each image take fewer products absorbed than with keys and values.

        Only on a CPU and without gradients: elsewhere it was not measured.
        """
        if states.device.type != "cpu" or torch.is_grad_enabled() or self.training:
            return False
        p, d = states.shape[1], self.query.out_features
        return num_queries * (self.heads * p + d) < p * d

    def absorb_query(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t h v"]:
        """Queries of each head times its key projection: their products with image states are the similarities."""
        n, t, d = x.shape
        queries = self.query(x).view(n * t, self.heads, d // self.heads).transpose(0, 1)
        return torch.bmm(queries, self._projection(0)).transpose(0, 1).reshape(n, t, self.heads, -1)

    def attend_states(
        self,
        queries: Float[Tensor, "b m v"],
        states: Float[Tensor, "b p v"],
        seen: Bool[Tensor, "b 1 1 p"] | None = None,
    ) -> Float[Tensor, "b m v"]:
        """Attend with absorbed queries to an image's states, which are keys and values at once."""
        image = states[:, None].to(queries.dtype)
        scale = (self.query.out_features // self.heads) ** -0.5
        return attend(queries[:, None], image, image, seen, scale=scale)[:, 0]

    def project_values(self, means: Float[Tensor, "n t h v"]) -> Float[Tensor, "n t d"]:
        """The value projection of each head's mean of image states, heads side by side."""
        n, t, h, v = means.shape
        values = torch.bmm(means.reshape(n * t, h, v).transpose(0, 1), self._projection(1).transpose(1, 2))
        return values.transpose(0, 1).reshape(n, t, -1) + self.key_value.bias.view(2, -1)[1]

    def _projection(self, which: int) -> Float[Tensor, "h e v"]:
        """The weights of the key (0) or value (1) projection, by head."""
        weight = self.key_value.weight
        return weight.view(2, self.heads, -1, weight.shape[1])[which]

    def finish(self, x: Float[Tensor, "n t d"], attended: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """Project what was attended, add it to the input, and normalise."""
        finished: Tensor = self.norm(x + self.dropout(self.output(attended)))
        return finished
