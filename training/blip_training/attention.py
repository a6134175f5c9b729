"""Scaled dot-product attention, by the fastest way that each device has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


def attend(
    q: Float[Tensor, "n h t e"],
    k: Float[Tensor, "n h s e"],
    v: Float[Tensor, "n h s e"],
    mask: Bool[Tensor, "n 1 1 s"] | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
) -> Float[Tensor, "n h t e"]:
    """What each query sees of the values; `mask` is true where it may look, `dropout` the share of weights dropped."""
    slow_backward = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad
    if not slow_backward:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)
    # The CPU's fused backward pass in bfloat16 took ten times the float32 one (torch 2.13, 18 tokens, 12 heads of 32),
    # a third of a whole training step.
    with torch.autocast("cpu", enabled=False):
        seen = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask, dropout, is_causal)
    return seen.to(q.dtype)
