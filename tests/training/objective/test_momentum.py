"""The momentum encoder and the queue."""

from __future__ import annotations

import pytest
import torch

from blip_bootstrap.config import ModelConfig
from blip_training.model.med import Med
from blip_training.objective.momentum import MomentumEncoder, Queue


def tiny(share: str = "all_but_sa", **vision: object) -> Med:
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "vision": {"image_size": 16, "patch_size": 8, "width": 32, "depth": 1, "heads": 2} | vision,
            "text": {"width": 32, "depth": 1, "heads": 2, "intermediate": 48, "dropout": 0},
            "embed_dim": 8,
            "share": share,
        }
    )
    return Med(config, 40)


@pytest.mark.parametrize("share", ["all", "all_but_ca", "all_but_sa", "none"])
def test_slow_weights_follow_by_one_part_in_two_hundred(share: str) -> None:
    med = tiny(share)
    slow = MomentumEncoder(med, 0.995)
    before = {name: weight.clone() for name, weight in slow.med.named_parameters()}
    with torch.no_grad():
        for weight in med.parameters():
            weight.add_(1.0)
    slow.update(med)
    for name, weight in slow.med.named_parameters():
        torch.testing.assert_close(weight, before[name] * 0.995 + dict(med.named_parameters())[name] * 0.005)
        assert not weight.requires_grad


def test_it_embeds_as_the_model_at_first_and_holds_no_more_than_that_takes() -> None:
    med = tiny()
    slow = MomentumEncoder(med)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    ids = torch.randint(0, 38, (2, 5))
    image, text = slow.embed(pixels, ids, torch.ones_like(ids))
    torch.testing.assert_close(image, med.embed_image(med.encode_image(pixels)))
    torch.testing.assert_close(text, med.embed_text(ids, torch.ones_like(ids)))
    assert not any("cross" in name or "causal" in name or "head" in name for name in slow.names)
    assert set(dict(med.named_parameters())) >= set(slow.names)


def test_state_dict_round_trip_goes_on_the_same() -> None:
    med = tiny()
    slow, other = MomentumEncoder(med), MomentumEncoder(tiny("all_but_sa"))
    with torch.no_grad():
        for weight in med.parameters():
            weight.mul_(2)
    slow.update(med)
    other.load_state_dict(slow.state_dict())
    for each in (slow, other):
        each.update(med)
    assert all(torch.equal(a, b) for a, b in zip(slow.parameters(), other.parameters(), strict=True))


def test_moved_weights_are_the_ones_that_are_updated() -> None:
    med = tiny()
    slow = MomentumEncoder(med, 0.0).double()
    slow.update(med.double())
    assert all(torch.equal(w, dict(med.named_parameters())[n]) for n, w in slow.med.named_parameters())


@pytest.mark.parametrize("sizes", [[3, 3, 3, 3], [5, 2, 7, 1, 9], [25]])
def test_queue_holds_the_last_rows_of_batches_of_any_size(sizes: list[int]) -> None:
    queue, everything = Queue(10, 4), []
    for number, size in enumerate(sizes):
        images, ids = torch.randn(size, 4), torch.arange(size) + 100 * number
        queue.push(images, -images, ids, ids * 7)
        everything += [(int(i), row) for i, row in zip(ids, images, strict=True)]
        held_images, held_texts, held_ids, held_keys = queue.contents()
        assert torch.equal(held_keys, held_ids * 7)
        expected = dict(everything[-10:])
        assert sorted(held_ids.tolist()) == sorted(expected)
        for i, image, text in zip(held_ids.tolist(), held_images, held_texts, strict=True):
            assert torch.equal(image, expected[i])
            assert torch.equal(text, -expected[i])


def test_queue_state_is_saved_and_nothing_in_it_is_nothing() -> None:
    queue, other = Queue(4, 2), Queue(4, 2)
    assert [len(part) for part in queue.contents()] == [0, 0, 0, 0]
    queue.push(torch.ones(3, 2), torch.ones(3, 2), torch.arange(3), torch.arange(3) + 20)
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.push(torch.zeros(3, 2), torch.zeros(3, 2), torch.arange(3) + 10, torch.arange(3) + 30)
    assert [a.tolist() for a in queue.contents()] == [b.tolist() for b in other.contents()]
    empty = Queue(0, 2)
    empty.push(torch.ones(3, 2), torch.ones(3, 2), torch.arange(3), torch.arange(3))
    assert len(empty.contents()[2]) == 0
