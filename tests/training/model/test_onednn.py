"""One product wherever there are no gradients, the same whatever the batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from blip_training.model.onednn import over_patches


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


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 here (no AVX-512)")
@pytest.mark.parametrize("gelu", [False, True])
def test_bfloat16_is_rounded_once(gelu: bool) -> None:
    """As for float32, with no rounding between the product and GELU; under autocast the input is rounded first."""
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(48, 80).bfloat16(), torch.randn(3, 17, 48).bfloat16()
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    expected = F.gelu(exact) if gelu else exact
    with torch.inference_mode():
        found = over_patches(layer, x, gelu)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(over_patches(layer, x.float(), gelu), found)
        assert torch.equal(over_patches(layer, x[:1], gelu), found[:1]), "the batch changed the digits"
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=2**-8)


def test_weights_in_another_dtype_are_the_layers_own() -> None:
    layer, x = torch.nn.Linear(48, 80), torch.randn(3, 17, 48)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(over_patches(layer, x), layer(x))
