"""The workers of a distributed training: this process's device and rank, and what workers exchange."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from blip_bootstrap.config import Device
from blip_bootstrap.errors import InputError


@dataclass(frozen=True)
class Worker:
    """Rank `rank` of `world` processes, computing on `device`."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the worker that writes files."""
        return self.rank == 0


def this_worker(device: Device) -> Worker:
    """This process's rank and device by torch.distributed; the only worker if there is no process group."""
    grouped = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)
    return Worker(resolve_device(device), rank, world)


def resolve_device(device: Device) -> torch.device:
    """The device to compute on; `auto` is CUDA if there is one. Raises InputError for `cuda` without CUDA."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda was asked for, but torch sees no CUDA device; set device: auto or cpu")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Let torch use `number` threads while the body runs; by default as many as it would."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def wait_for_all() -> None:
    """Wait until all workers have called this."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def is_grouped() -> bool:
    """Whether there are workers beside this one."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather(values: Tensor) -> Tensor:
    """All workers' rows in the order of their ranks, without gradient: [B, ...] to [world * B, ...]."""
    if not is_grouped():
        return values.detach()
    rows = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, values.detach().contiguous())
    return torch.cat(rows)


class _GatherWithGradient(torch.autograd.Function):
    """`gather` whose backward pass sums the gradients of a row over all workers whose losses depend on it."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        context.num_rows = len(values)
        return gather(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        dist.all_reduce(total)
        start = dist.get_rank() * context.num_rows
        return total[start : start + context.num_rows]


def gather_with_gradient(values: Tensor) -> Tensor:
    """`gather` with gradients; all workers must call it, and its backward pass, equally often."""
    if not is_grouped():
        return values
    gathered: Tensor = _GatherWithGradient.apply(values)  # type: ignore[no-untyped-call]
    return gathered


def largest(value: int, device: torch.device) -> int:
    """The maximum of all workers' numbers; waits for the device."""
    if not is_grouped():
        return value
    number = torch.tensor(value, device=device)
    dist.all_reduce(number, dist.ReduceOp.MAX)
    return int(number)


def average(values: Mapping[str, Tensor], world: int) -> dict[str, Tensor]:
    """The mean of each scalar over all workers, in one exchange."""
    if world == 1 or not values:
        return dict(values)
    both = torch.stack([value.float() for value in values.values()])
    dist.all_reduce(both)
    return dict(zip(values, both / world, strict=True))
