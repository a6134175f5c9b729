"""Dropout: what it drops, what it scales, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch

from blip_training.model.dropout import Dropout, drop


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_share_is_dropped_and_the_mean_stays(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(1001, 1003, dtype=dtype)
    dropped = drop(x, share)
    assert dropped.dtype == dtype
    assert float((dropped == 0).float().mean()) == pytest.approx(share, abs=0.002)
    assert float(dropped.float().mean()) == pytest.approx(1, abs=0.02)
    assert dropped.unique().tolist() == pytest.approx(
        [0, 1 / (1 - share)], rel=2**-8 if dtype == torch.bfloat16 else 1e-4
    )


def test_places_are_independent_also_of_their_neighbours_in_one_draw() -> None:
    torch.manual_seed(0)
    kept = (drop(torch.ones(400_000), 0.5) != 0).float().view(-1, 4)
    assert kept.mean(0).tolist() == pytest.approx([0.5] * 4, abs=0.01)
    together = (kept.T @ kept) / len(kept)
    assert together[~torch.eye(4, dtype=torch.bool)].tolist() == pytest.approx([0.25] * 12, abs=0.01)


def test_one_seed_gives_one_mask_and_the_gradient_has_it_too() -> None:
    x = torch.randn(7, 5, requires_grad=True)
    torch.manual_seed(3)
    first = drop(x, 0.4)
    torch.manual_seed(3)
    assert torch.equal(first, drop(x, 0.4))
    first.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, first)


@pytest.mark.parametrize("share", [0.0, 1e-9, 1.0])
def test_the_ends_are_torchs(share: float) -> None:
    x = torch.randn(50)
    torch.testing.assert_close(drop(x, share), torch.nn.functional.dropout(x, share))


def test_nothing_is_dropped_but_in_training() -> None:
    x, layer = torch.randn(50), Dropout(0.5)
    assert torch.equal(layer.eval()(x), x)
    assert not torch.equal(layer.train()(x), x)
    assert drop(torch.empty(0, 3), 0.5).shape == (0, 3)
