"""Casts a model's weights to bfloat16 for inference."""

from __future__ import annotations

import torch
from torch import nn

from blip_training.model.med import Med
from blip_training.model.text_stack import LmHead

HEADS = ("vision_projection", "text_projection", "itm_head")


def cast_products(med: Med) -> Med:
    """Cast the weights of all matrix products to bfloat16, in place, and return `med`; to be used under autocast.

    Autocast would cast each of them at each batch. What stays in float32 stays so: norms, the sums between blocks, the
    heads of ITC and ITM, the ITC temperature.
    """
    for name, module in med.named_modules():
        if name in HEADS:
            continue
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            module.to(torch.bfloat16)
        elif isinstance(module, LmHead):
            module.bias.data = module.bias.data.to(torch.bfloat16)
    return med
