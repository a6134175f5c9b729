"""Attention in each number format is that of the definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blip_training.model import attention
from blip_training.model.attention import attend

MASK = torch.arange(7) < torch.tensor([3, 7])[:, None, None, None]


def draw(times: int = 5, seen: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, count, 16, generator=generator, dtype=torch.float64) for count in (times, seen, seen)]


def reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    similar = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if is_causal:
        mask = torch.ones(similar.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        similar = similar.masked_fill(~mask, -torch.inf)
    return similar.softmax(-1) @ v


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("kind", ["all", "mask", "causal"])
def test_attention_and_its_gradient(dtype: torch.dtype, tolerance: float, trained: bool, kind: str) -> None:
    how = {"mask": MASK if kind == "mask" else None, "is_causal": kind == "causal"}
    exact = draw(7)
    parts = [part.to(dtype).requires_grad_(trained) for part in exact]
    exact = [part.detach().double().requires_grad_(trained) for part in parts]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        seen = attend(*parts, **how)  # type: ignore[arg-type]
    expected = reference(*exact, **how)  # type: ignore[arg-type]
    assert seen.dtype == dtype
    torch.testing.assert_close(seen.double(), expected, rtol=0, atol=tolerance)
    if trained:
        seen.sum().backward()
        expected.sum().backward()
        for part, of_exact in zip(parts, exact, strict=True):
            assert part.grad is not None
            torch.testing.assert_close(part.grad.double(), of_exact.grad, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("num_fitting", "num_parts"), [(0, 6), (1, 6), (2, 4), (3, 2), (5, 2), (6, 1), (1000, 1)])
def test_heads_a_few_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch, num_fitting: int, num_parts: int) -> None:
    q, k, v = (part.bfloat16() for part in draw())  # two images of three heads
    together = attend(q, k, v)
    monkeypatch.setattr(attention, "CACHED_BYTES", num_fitting * 5 * 7 * 2)
    products: list[Tensor] = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b, **how: products.append(a) or bmm(a, b, **how))
    with torch.no_grad():
        assert torch.equal(attend(q, k, v), together)
    assert len(products) == 2 * num_parts, "a decoder's many small rows must not be taken one by one"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_leaves_out_weights_and_keeps_their_mean(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v = torch.zeros(4, 2, 64, 16), torch.zeros(4, 2, 256, 16), torch.ones(4, 2, 256, 16)
    seen = attend(q.to(dtype), k.to(dtype), v.to(dtype), dropout=0.25).float()
    kept = seen[..., 0] * 0.75  # of 256 equal weights
    assert torch.unique(seen[..., 0]).numel() > 10
    assert kept.mean() == pytest.approx(0.75, abs=0.01)
    assert kept.std() == pytest.approx((0.75 * 0.25 / 256) ** 0.5, rel=0.2)
