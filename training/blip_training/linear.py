"""Linear layers over all patches of a batch of images, by the fastest product that a device has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor, nn


def over_patches(layer: nn.Linear, x: Float[Tensor, "b p i"], gelu: bool = False) -> Float[Tensor, "b p o"]:
    """What `layer` gives, with GELU after it where asked.

    Without gradients and in float32 on a CPU it is oneDNN's product, where torch takes MKL's: on an AMD EPYC (Zen 4)
    with the patches of eight images 4 to 12 % faster, GELU included (torch 2.13); with those of one image 5 % slower.
    It is taken whatever the number of images: the last digits must not depend on the batch.
    """
    if not _takes_onednn(layer, x):
        y: Tensor = layer(x)
        return F.gelu(y) if gelu else y
    after, algorithm = ("gelu", "none") if gelu else ("none", "")
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, after, [], algorithm)
    return product


def _takes_onednn(layer: nn.Linear, x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == layer.weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )
