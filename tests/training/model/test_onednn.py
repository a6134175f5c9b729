"""One product wherever there are no gradients, the same whatever the batch; large products with gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from blip_training.model import onednn
from blip_training.model.onednn import Linear, over_patches, product


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


@pytest.mark.parametrize("frozen", ["nothing", "input", "weight", "bias"])
def test_a_large_product_has_the_gradients_of_the_layer(monkeypatch: pytest.MonkeyPatch, frozen: str) -> None:
    torch.manual_seed(0)
    x, layer = torch.randn(3, 17, 48), Linear(48, 80)
    leaves = {"input": x, "weight": layer.weight, "bias": layer.bias}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name != frozen)
    towards = torch.randn(3, 17, 80)

    def trained(limit: int) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
        monkeypatch.setattr(onednn, "LARGE", limit)
        for leaf in leaves.values():
            leaf.grad = None
        y = layer(x)
        assert (type(y.grad_fn).__name__ == "_ProductBackward") == (limit == 0)
        (y * towards).sum().backward()
        return y.detach(), {name: leaf.grad for name, leaf in leaves.items()}

    plain, by_torch = trained(10**9)
    large, by_onednn = trained(0)
    torch.testing.assert_close(large, plain, atol=1e-5, rtol=1e-5)
    for name in leaves:
        expected, found = by_torch[name], by_onednn[name]
        assert (expected is None) == (found is None) == (name == frozen)
        if expected is not None and found is not None:
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_it_is_for_large_products_in_float32_with_gradients_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = torch.randn(4, 48), torch.randn(80, 48, requires_grad=True), torch.randn(80)
    monkeypatch.setattr(onednn, "LARGE", 4 * 48 * 80 + 1)
    assert type(product(x, weight, bias).grad_fn).__name__ == "AddmmBackward0"
    monkeypatch.setattr(onednn, "LARGE", 4 * 48 * 80)
    assert type(product(x, weight, bias).grad_fn).__name__ == "_ProductBackward"
    with torch.autocast("cpu", torch.bfloat16):
        assert product(x, weight, bias).dtype == torch.bfloat16
    assert type(product(x.double(), weight.double(), bias.double()).grad_fn).__name__ == "AddmmBackward0"
    with torch.no_grad():
        assert torch.equal(product(x, weight, bias), F.linear(x, weight, bias))
