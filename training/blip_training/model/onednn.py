"""Linear layers by the fastest product that a device has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


LARGE = 2**26
"""Multiplications of a product from which on oneDNN saves more than the Python around it costs (some 30 us)."""


class Linear(nn.Linear):
    """A linear layer that is trained with oneDNN's products where they are faster (`product`)."""

    def forward(self, x: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        """Multiply by the weight, add the bias."""
        return product(x, self.weight, self.bias)


def product(
    x: Float[Tensor, "... i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"]
) -> Float[Tensor, "... o"]:
    """`x` times the transposed weight, plus the bias, with gradients.

    Large products in float32 on a CPU are oneDNN's, forward and for the gradient of `x`, where torch would take MKL's:
    at base size 7 to 15 % less time each (AMD Zen 4, torch 2.13). The weight's gradient is MKL's, which is as fast.
    """
    if _trains_by_onednn(x, weight):
        y: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return y
    return F.linear(x, weight, bias)


class _Product(torch.autograd.Function):
    """`product` by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            _multiply(gradient, weight.t()) if of_x else None,
            rows.t() @ x.flatten(0, -2) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    multiplied: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return multiplied


def over_patches(layer: nn.Linear, x: Float[Tensor, "b p i"], gelu: bool = False) -> Float[Tensor, "b p o"]:
    """A linear layer over image states, followed by GELU if `gelu`.

    Without gradients on a CPU it is oneDNN's product with bias and GELU in it, where torch would take MKL's. In float32
    that is 4 to 12 % faster for the patches of eight images and 5 % slower for those of one (AMD Zen 4, torch 2.13); in
    bfloat16 fc1 of ViT-B and GELU for eight images took 35 ms instead of 64 (Intel Xeon with AMX, torch 2.11). It is
    taken whatever the number of images: the last digits must not depend on the batch.
    """
    if not _takes_onednn(layer, x):
        y: Tensor = layer(x)
        return F.gelu(y) if gelu else y
    after, algorithm = ("gelu", "none") if gelu else ("none", "")
    multiplied: Tensor = torch.ops.mkldnn._linear_pointwise(
        x.to(layer.weight.dtype), layer.weight, layer.bias, after, [], algorithm
    )
    return multiplied


def _trains_by_onednn(x: Tensor, weight: Tensor) -> bool:
    if x.device.type != "cpu" or not torch.is_grad_enabled() or x.numel() * len(weight) < LARGE:
        return False
    plain = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    # The rest costs more to ask than the lines above.
    return plain and torch.backends.mkldnn.is_available() and not torch.compiler.is_compiling()  # type: ignore[no-untyped-call]


def _takes_onednn(layer: nn.Linear, x: Tensor) -> bool:
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype  # torch would multiply so
    if dtype != layer.weight.dtype or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    # oneDNN multiplies bfloat16 on processors with AVX-512 alone.
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
