"""Brings batches to the device: on a GPU the next one while this one is computed with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor


class Moved(Protocol):
    """What has tensors that can be moved to a device, a dataclass on a GPU."""

    def to(self, device: torch.device) -> Self:
        """This with its tensors on `device`."""


MovedT = TypeVar("MovedT", bound=Moved)

T = TypeVar("T")

U = TypeVar("U")


def on_device(feed: Iterator[Sequence[MovedT]], device: torch.device) -> Iterator[list[MovedT]]:
    """The micro-batches of each step of `feed`, with their tensors on `device`.

    On a GPU a thread takes the next step's from the feed, puts them into pinned memory and copies them by a stream of
    its own, so that neither the feed nor the copy keeps the GPU waiting.
    """
    if device.type != "cuda":
        for batches in feed:
            yield [batch.to(device) for batch in batches]
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copied(batches: Sequence[MovedT]) -> tuple[list[MovedT], torch.cuda.Event]:
        with torch.cuda.stream(stream):
            moved = [pinned(batch).to(device) for batch in batches]
            return moved, stream.record_event()

    for moved, event in one_ahead(feed, copied):
        current = torch.cuda.current_stream(device)
        current.wait_event(event)
        for tensor in (tensor for batch in moved for tensor in tensors_of(batch).values()):
            tensor.record_stream(current)  # its memory is the other stream's, which must not take it back too early
        yield moved


def one_ahead(feed: Iterator[T], prepare: Callable[[T], U]) -> Iterator[U]:
    """What `prepare` makes of each item; a thread makes the next one while this one is used."""
    end = object()

    def made() -> U | object:
        item = next(feed, end)
        return end if item is end else prepare(item)  # type: ignore[arg-type]

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(made)
        while (item := coming.result()) is not end:
            coming = thread.submit(made)
            yield item  # type: ignore[misc]


def tensors_of(batch: Any) -> dict[str, Tensor]:
    """The tensors of a batch, a dataclass, by the names of their fields."""
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def pinned(batch: MovedT) -> MovedT:
    """The batch with those tensors that are on the CPU in pinned memory, which a GPU reads by itself."""
    held = {name: tensor.pin_memory() for name, tensor in tensors_of(batch).items() if tensor.device.type == "cpu"}
    return dataclasses.replace(batch, **held)  # type: ignore[type-var]
