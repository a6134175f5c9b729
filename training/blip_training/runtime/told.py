"""What workers tell each other beside tensors: what the first one has found, and what each of them has made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from blip_bootstrap.errors import BlipBootstrapError
from blip_training.runtime.workers import Worker

Found = TypeVar("Found")


def told_by_first(worker: Worker, find: Callable[[], Found]) -> Found:
    """What `find` gives in the first worker, told to all; what it raises there, all raise."""
    told: list[Any] = [None]
    if worker.first:
        try:
            told = [find()]
        except BlipBootstrapError as error:
            told = [error]
    if worker.world > 1:
        dist.broadcast_object_list(told, src=0, device=worker.device)
    if isinstance(told[0], BlipBootstrapError):
        raise told[0]
    found: Found = told[0]
    return found


def told_by_all(worker: Worker, mine: Found) -> list[Found]:
    """What each worker has made, in the order of their ranks."""
    if worker.world == 1:
        return [mine]
    told: list[Any] = [None] * worker.world
    dist.all_gather_object(told, mine)
    return told
