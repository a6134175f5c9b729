"""What the workers of a training have in common: settings that agree, and one state, that of the first of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from blip_bootstrap.errors import BlipBootstrapError, InputError
from blip_training.runtime.host import this_host
from blip_training.runtime.workers import Worker

T = TypeVar("T")

SHOWN_RANKS = 4

HASH_FACTOR = 0x5851F42D4C957F2D

log = logging.getLogger(__name__)


def check_alike(facts: Mapping[str, object], worker: Worker) -> None:
    """Raise InputError on every worker if one has other `facts` than the first, which names it, its host and the fact.

    Nested mappings are compared by their leaves. All workers must call it.
    """
    if worker.world == 1:
        return
    everyone: list[Any] = [None] * worker.world
    dist.all_gather_object(everyone, (this_host(), {name: repr(value) for name, value in _leaves(facts)}))
    first_host, wanted = everyone[0]
    for rank, (host, found) in enumerate(everyone):
        for name in [name for name in wanted | found if wanted.get(name) != found.get(name)][:1]:
            raise InputError(
                f"rank {rank} ({host}): {name} is {found.get(name, 'missing')}, and rank 0 ({first_host}) has "
                f"{wanted.get(name, 'none')}; start all workers with the same version, configuration and data"
            )


def from_first(make: Callable[[], T], worker: Worker) -> T:
    """What `make` gives on rank 0, on every worker: plain values and tensors, on the workers' own device.

    An error of ours that rank 0 raises is raised by all. All workers must call it.
    """
    if worker.world == 1:
        return make()
    made: Any = None
    if worker.first:
        try:
            made = make()
        except BlipBootstrapError as error:
            made = error
    found = _spread(made, worker)
    if isinstance(found, BlipBootstrapError):
        raise found
    return found  # type: ignore[no-any-return]


def from_all(mine: T, worker: Worker) -> list[T]:
    """What each worker has made (`mine`), in the order of their ranks. All workers must call it."""
    if worker.world == 1:
        return [mine]
    found: list[Any] = [None] * worker.world
    dist.all_gather_object(found, mine)
    return found


def differing(states: Mapping[str, object], worker: Worker) -> dict[int, list[str]]:
    """The ranks whose tensors are not those of rank 0, and the names of their `states` that differ. All must call it.

    It costs one pass over the tensors, and an exchange of a number a state.
    """
    own = torch.tensor([_digest(list(_tensors(state))) for state in states.values()], device=worker.device)
    digests = [torch.empty_like(own) for _ in range(worker.world)]
    dist.all_gather(digests, own)
    first, *_ = found = [one.tolist() for one in digests]
    names = list(states)
    unlike = {rank: [names[at] for at in range(len(names)) if one[at] != first[at]] for rank, one in enumerate(found)}
    return {rank: others for rank, others in unlike.items() if others}


def warn_of(unlike: Mapping[int, list[str]], worker: Worker) -> None:
    """Log which ranks began with another state than rank 0, and that they take its state."""
    if not unlike:
        return
    hosts: list[Any] = [None] * worker.world
    dist.all_gather_object(hosts, this_host())
    if worker.first:
        ranks = [f"rank {rank} ({hosts[rank]}: {', '.join(names)})" for rank, names in unlike.items()]
        more = f" and {len(ranks) - SHOWN_RANKS} more" if len(ranks) > SHOWN_RANKS else ""
        log.warning(
            "%s%s began with other weights than rank 0, and goes on with those of rank 0; has every machine the same "
            "versions and files?", ", ".join(ranks[:SHOWN_RANKS]), more,
        )  # fmt: skip


class _Place(NamedTuple):
    """Where a tensor stands in a state whose tensors are sent apart."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def _spread(state: Any, worker: Worker) -> Any:
    """Rank 0's `state` on every worker: its shape in one message, then one tensor after another."""
    tensors = list(_tensors(state)) if worker.first else []
    shape = [_mapped(state, lambda one: _Place(tuple(one.shape), one.dtype), Tensor)]
    dist.broadcast_object_list(shape, 0, device=worker.device)
    if worker.first:
        for one in tensors:
            _send(one.to(worker.device))
        return state

    def received(place: _Place) -> Tensor:
        one = torch.empty(place.shape, dtype=place.dtype, device=worker.device)
        _send(one)
        return one

    return _mapped(shape[0], received, _Place)


def _send(tensor: Tensor) -> None:
    """Rank 0's values into every worker's contiguous `tensor`; one without values (a queue of none) is left out."""
    if tensor.numel():
        dist.broadcast(_bytes(tensor), 0)


def _mapped(state: Any, change: Callable[[Any], Any], kind: type) -> Any:
    """`state` with `change` of each value of `kind`, in the order of `_tensors`."""
    if isinstance(state, kind):
        return change(state)
    if isinstance(state, Mapping):
        return {key: _mapped(value, change, kind) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_mapped(value, change, kind) for value in state)
    return state


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state.detach()
    elif isinstance(state, Mapping | list | tuple):
        for value in state.values() if isinstance(state, Mapping) else state:
            yield from _tensors(value)


def _bytes(tensor: Tensor) -> Tensor:
    """A view of a contiguous tensor's bytes, which any backend sends."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _digest(tensors: list[Tensor]) -> int:
    """64 bits of the tensors' bytes and order, computed where they are."""
    digest = torch.zeros((), dtype=torch.int64, device=tensors[0].device if tensors else "cpu")
    for tensor in tensors:
        raw = _bytes(tensor)
        words = raw.view(torch.int32) if raw.numel() % 4 == 0 else raw
        odd = torch.arange(1, 2 * words.numel() + 1, 2, device=words.device)
        digest = digest * HASH_FACTOR + (words * odd).sum().to(digest.device)  # overflow is meant
    return int(digest)


def _leaves(facts: Mapping[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
