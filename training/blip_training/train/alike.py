"""Workers of one training begin alike: the same data, and the weights, queue and optimizer's state of rank 0."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

import blip_bootstrap
from blip_bootstrap.settings.section import Section
from blip_training.feed.batches import AnyBatch, StepBatches
from blip_training.runtime.agreement import check_alike, differing, from_first, warn_of
from blip_training.runtime.workers import Worker
from blip_training.train.checkpoints import weights_of

OF_A_WORKER = frozenset({"rank", "num_threads", "cache_bytes"})
"""Numbers of a feed that may differ between workers."""

OF_A_CHECKPOINT = ("step", "log")
"""What a checkpoint holds beside weights and moments."""

Modules = Mapping[str, nn.Module]


def begin_alike(
    modules: Modules, optimizer: Optimizer, restore: Callable[[], dict[str, Any] | None], worker: Worker
) -> dict[str, Any] | None:
    """Step and log of the checkpoint that `restore` loads, None without one; all workers then hold what rank 0 holds.

    Rank 0 alone reads the checkpoint. Without one, weights are sent only where a worker has drawn or read others, and
    that is told. Raises what `restore` raises, on every worker.
    """

    def restored() -> dict[str, Any] | None:
        found = restore()
        return found and {name: found[name] for name in OF_A_CHECKPOINT}

    rest = from_first(restored, worker)
    if worker.world == 1:
        return rest
    unlike = {}
    if rest is None:
        unlike = differing({name: module.state_dict() for name, module in modules.items()}, worker)
        warn_of(unlike, worker)
    if rest is not None or unlike:
        state = from_first(lambda: weights_of(modules, optimizer), worker)
        if not worker.first:
            for name, module in modules.items():
                module.load_state_dict(state[name])
            optimizer.load_state_dict(state["optimizer"])
    return rest


def check_config(config: Section, worker: Worker) -> None:
    """Raise InputError on every worker if one has another version or configuration than rank 0."""
    settings = config.model_dump(mode="json", exclude={"optimizer": {"threads", "grids"}})
    versions = {"blip-bootstrap": blip_bootstrap.__version__, "torch": torch.__version__}
    check_alike({"version": versions} | settings, worker)


def check_data(data: StepBatches[AnyBatch], worker: Worker) -> None:
    """Raise InputError on every worker if one has other files of training data, or another feed, than rank 0."""
    feed = {name: value for name, value in vars(data.feed).items() if isinstance(value, int | float | str)}
    feed = {name: value for name, value in feed.items() if name not in OF_A_WORKER}
    check_alike({"training data": {"samples": data.num_samples, "files": _files_of(data)}, "feed": feed}, worker)


def _files_of(data: StepBatches[AnyBatch]) -> str:
    """Number and digest of the names of the files that samples are read from: machines may mount them elsewhere."""
    streams = (getattr(data, name, None) for name in ("web", "human"))
    names = [(shard.images.name, shard.pairs and shard.pairs.name) for one in streams if one for shard in one.shards]
    return f"{len(names)} ({hashlib.blake2b(repr(names).encode(), digest_size=4).hexdigest()})"
