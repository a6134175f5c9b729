"""Batches come to the device in their order, and the next is made while this one is used."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from blip_training.feed.batches import Batch
from blip_training.runtime.ahead import on_device, one_ahead, tensors_of

NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def batch(number: int) -> Batch:
    return Batch(torch.full((2, 3), number, dtype=torch.uint8), ["a", "b"], torch.tensor([number, number]))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_all_micro_batches_come_in_order(device: str) -> None:
    feed = ([batch(2 * step), batch(2 * step + 1)] for step in range(5))
    found = [[int(one.images[0, 0]) for one in moved] for moved in on_device(feed, torch.device(device))]
    assert found == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


def test_the_next_is_made_while_this_one_is_used() -> None:
    made = threading.Semaphore(0)

    def prepare(item: int) -> int:
        made.release()
        return item * 10

    for item in one_ahead(iter(range(4)), prepare):
        assert made.acquire(timeout=30)  # its own
        if item < 30:
            assert made.acquire(timeout=30)  # and the next one's, before this one is done
            made.release()


def test_no_more_than_one_is_made_ahead() -> None:
    made: list[int] = []

    def prepare(item: int) -> int:
        made.append(item)
        return item

    for item in one_ahead(iter(range(6)), prepare):
        assert len(made) <= item + 2


def test_an_error_of_the_feed_comes_out_in_its_turn() -> None:
    def feed() -> Iterator[int]:
        yield 1
        raise ValueError("picture 7 is broken")

    ahead = one_ahead(feed(), lambda item: item)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="picture 7 is broken"):
        next(ahead)


def test_who_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    ahead = one_ahead(iter(range(100)), lambda item: item)
    assert next(ahead) == 0
    ahead.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_an_empty_feed_gives_nothing() -> None:
    assert list(one_ahead(iter(()), lambda item: item)) == []


def test_tensors_of_a_batch() -> None:
    assert list(tensors_of(batch(1))) == ["images", "ids"]
