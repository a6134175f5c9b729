"""Cross-attention from text to image, with the image's keys and values kept or left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from blip_training.model.attention import attend
from blip_training.model.onednn import over_patches

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from blip_training.model.text_stack import KeyValue


NORM_EPS = 1e-12


class CrossAttention(nn.Module):
    """Attention of texts over image states."""

    def __init__(self, width: int, vision_width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(vision_width, 2 * width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def keys_values(self, states: Float[Tensor, "b p v"]) -> KeyValue:
        """Keys and values [B, heads, P, d/heads] of image states, to be computed once per image."""
        b, p, _ = states.shape
        both = over_patches(self.key_value, states)
        k, v = both.view(b, p, 2, self.heads, both.shape[2] // (2 * self.heads)).permute(2, 0, 3, 1, 4).unbind(0)
        return k, v

    def forward(
        self, x: Float[Tensor, "n t d"], image: KeyValue | Tensor, seen: Bool[Tensor, "b 1 1 p"] | None = None
    ) -> Float[Tensor, "n t d"]:
        """Row r of `x` looks at image r // (N / B): an image's K rows are read as one row of K*T queries.

        `image` is what `keys_values` made, or the image states themselves: see `asked`. `seen` is true where there is
        something to look at; by default everywhere.
        """
        b = (image if isinstance(image, torch.Tensor) else image[0]).shape[0]
        if isinstance(image, torch.Tensor):
            asked = self.asked(x)
            looked = self.look(asked.reshape(b, -1, image.shape[2]), image, seen)
            return self.finish(x, self.told(looked.view_as(asked)))
        queries = self.query(x).view(b, -1, x.shape[2])
        return self.finish(x, self.look_by_keys(queries, image, seen).reshape(x.shape))

    def look_by_keys(
        self, queries: Float[Tensor, "b m d"], image: KeyValue, seen: Bool[Tensor, "b 1 1 p"] | None = None
    ) -> Float[Tensor, "b m d"]:
        """The mean of an image's values, as much of each as its key is like the query; by head."""
        keys, values = image
        dropped = self.dropout.p if self.training else 0.0
        by_head = queries.view(*queries.shape[:2], self.heads, -1).transpose(1, 2)
        return attend(by_head, keys, values, seen, dropped).transpose(1, 2).flatten(2)

    def asks(self, states: Float[Tensor, "b p v"], num_queries: int) -> bool:
        """Whether so many queries of each image cost less without keys and values (`asked`): fewer products.

        On a CPU and without gradients, where that was measured.
        """
        if states.device.type != "cpu" or torch.is_grad_enabled() or self.training:
            return False
        p, d = states.shape[1], self.query.out_features
        return num_queries * (self.heads * p + d) < p * d

    def asked(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t h v"]:
        """The queries, by head, as they stand to image states: q (W s) is (q W) s, for every key W s + b.

        The key's bias adds the same to all similarities of a query, which the softmax makes nothing of. Values go the
        same way: the mean of W s + b is W times the mean of s, plus b (`told`). Keys and values are as many as patches,
        so that a few queries cost less without; and where a text is written token by token, the states are all that is
        read each time.
        """
        n, t, d = x.shape
        queries = self.query(x).view(n * t, self.heads, d // self.heads).transpose(0, 1)
        return torch.bmm(queries, self._weight_by_head(0)).transpose(0, 1).reshape(n, t, self.heads, -1)

    def look(
        self, asked: Float[Tensor, "b m v"], states: Float[Tensor, "b p v"], seen: Bool[Tensor, "b 1 1 p"] | None = None
    ) -> Float[Tensor, "b m v"]:
        """The mean of an image's states, as much of each as `asked` says."""
        image = states[:, None].to(asked.dtype)
        scale = (self.query.out_features // self.heads) ** -0.5
        return attend(asked[:, None], image, image, seen, scale=scale)[:, 0]

    def told(self, looked: Float[Tensor, "n t h v"]) -> Float[Tensor, "n t d"]:
        """The mean of the values, of the mean of the states that each head looked at."""
        n, t, h, v = looked.shape
        means = torch.bmm(looked.reshape(n * t, h, v).transpose(0, 1), self._weight_by_head(1).transpose(1, 2))
        return means.transpose(0, 1).reshape(n, t, -1) + self.key_value.bias.view(2, -1)[1]

    def _weight_by_head(self, which: int) -> Float[Tensor, "h e v"]:
        """Of keys (0) or values (1)."""
        weight = self.key_value.weight
        return weight.view(2, self.heads, -1, weight.shape[1])[which]

    def finish(self, x: Float[Tensor, "n t d"], attended: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """Output projection, added to the input, and norm."""
        finished: Tensor = self.norm(x + self.dropout(self.output(attended)))
        return finished
