"""Scaled dot-product attention, by the fastest way that each device has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from blip_training.model.dropout import drop

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


CACHED_BYTES = 2**20
"""What similarities may take: most processors that have bfloat16 have second-level caches of 1 to 2 MiB a core."""


def attend(
    q: Float[Tensor, "n h t e"],
    k: Float[Tensor, "n h s e"],
    v: Float[Tensor, "n h s e"],
    mask: Bool[Tensor, "n 1 1 s"] | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, "n h t e"]:
    """Scaled dot-product attention over heads: N rows, H heads, T queries, S keys and values, of width E.

    `mask` is true for keys that may be attended to, `dropout` (0..1) the share of weights dropped. Similarities are
    multiplied by `scale`; None: by E**-0.5.

    The CPU's fused kernel is slow in bfloat16 (torch 2.13): its backward pass took ten times the float32 one (18
    tokens, 12 heads of 32). There plain products are the fastest way, also beside the fused kernel in float32: half
    its time, forward and backward, at 197 patches of 12 heads of 64. With dropout torch has no fused kernel there.
    """
    if q.device.type != "cpu" or (q.dtype != torch.bfloat16 and not dropout):
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal, scale=scale)
    with torch.autocast("cpu", enabled=False):
        if is_causal:
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
        return _in_products(q, k, v, mask, dropout, q.shape[-1] ** -0.5 if scale is None else scale)


def _in_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, scale: float) -> Tensor:
    """Attention by plain products, with similarities in bfloat16, as transformers' eager BLIP computes it.

    The error is twice that which the rounding of `q` and `k` makes by itself.
    """
    plain = mask is None and not dropout and q.shape[:2] == k.shape[:2]
    if plain and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _in_cache(q, k, v, scale)
    similar = torch.matmul(q * scale, k.transpose(-1, -2))
    if mask is not None:
        similar = similar.masked_fill(~mask, torch.finfo(similar.dtype).min)
    return torch.matmul(drop(similar.softmax(dim=-1), dropout, dropout > 0), v)


def _in_cache(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attention without mask and dropout, few heads and images at a time, so that similarities stay in a core's cache.

    All at once they go through memory: in float32, eight images of 577 patches took twice as long (an Intel Xeon).
    """
    (n, h, t), s, width = q.shape[:3], k.shape[2], v.shape[3]
    num_heads = max(1, CACHED_BYTES // (t * s * q.element_size()))
    num_images = max(1, num_heads // h)
    attended = q.new_empty(n, t, h, width).transpose(1, 2)  # heads side by side, as its callers flatten it
    # Contiguous by head first: products of strided tensors copy them each time. An image of base size took 252 ms
    # instead of 348 (one core).
    for images in (slice(first, first + num_images) for first in range(0, n, num_images)):
        queries, keys, values = (one[images].contiguous().flatten(0, 1) for one in (q, k, v))
        found = q.new_empty(len(queries), t, width)
        for at in (slice(first, first + num_heads) for first in range(0, len(queries), num_heads)):
            weights = torch.bmm(queries[at] * scale, keys[at].transpose(1, 2)).softmax(dim=-1)
            torch.bmm(weights, values[at], out=found[at])
        attended[images] = found.view(-1, h, t, width)
    return attended
