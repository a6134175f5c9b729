"""One product wherever there are no gradients, the same whatever the batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from blip_training.linear import over_patches


@pytest.mark.parametrize("gelu", [False, True])
def test_it_is_the_layer(gelu: bool) -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(48, 80), torch.randn(3, 17, 48)
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    expected = (F.gelu(exact) if gelu else exact).float()
    trained = over_patches(layer, x, gelu)
    assert trained.requires_grad
    with torch.inference_mode():
        found = over_patches(layer, x, gelu)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found, trained.detach(), atol=1e-6, rtol=1e-5)
        assert torch.equal(over_patches(layer, x[:1], gelu), found[:1]), "the batch changed the digits"


@pytest.mark.parametrize("gelu", [False, True])
def test_other_dtypes_are_the_layers_own(gelu: bool) -> None:
    layer, x = torch.nn.Linear(48, 80).bfloat16(), torch.randn(3, 17, 48).bfloat16()
    with torch.no_grad():
        y = layer(x)
        assert torch.equal(over_patches(layer, x, gelu), F.gelu(y) if gelu else y)
        with torch.autocast("cpu", torch.bfloat16):
            assert over_patches(layer.float(), x.float(), gelu).dtype == torch.bfloat16
