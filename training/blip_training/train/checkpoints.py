"""Checkpoints of a training: model, optimizer, log and step, in one file from which it goes on to the bit.

The last two are kept, so that a damaged one costs the steps since the one before it. None knows of the number of
workers or of their devices: of four workers with GPUs, one on a CPU goes on.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from blip_bootstrap.config import OptimizerConfig
from blip_bootstrap.errors import CheckpointError, RunFailed, is_disk_full
from blip_bootstrap.storage.files import make_folder, staged_file, sweep, sync
from blip_bootstrap.storage.manifest import recipe_of
from blip_bootstrap.stores.store import fetched, gone, is_there
from blip_training.checkpoint.finite import not_finite
from blip_training.checkpoint.store import WEIGHTS
from blip_training.feed.batches import FEED
from blip_training.train.checkpoint_files import CHECKPOINTS, checkpoint_path, checkpoints_in, step_of

NUM_KEPT = 2

MAX_FAILED = 3
"""So many checkpoints in a row that cannot be written end a training; see `Checkpoints`."""

BACKGROUND_BYTES = 1 << 28
"""A larger checkpoint is copied to the host's memory and written by a thread, while the training goes on."""

_OF_THE_DEVICE = ("fused", "foreach", "capturable", "differentiable")
"""Settings of AdamW by which it is computed, not what: as today's device has them."""

_HOW = ("device", "dtype", "compile", "activation_checkpointing")
"""Settings of a training by which it is computed: with others it goes on, with float noise of another kind."""

log = logging.getLogger(__name__)


class Checkpoints:
    """The last checkpoints in a training's folder `out`, on this machine or on the store of the run.

    One that cannot be written (a full disk, a store that refuses) is told, and the training goes on: ending it would
    lose the steps since the last one for certain. After MAX_FAILED in a row it ends, since a death would cost ever
    more. Those before stay in any case. On a disk there is to be room for three.
    """

    def __init__(self, out: Path, config: OptimizerConfig) -> None:
        self.out = out
        settings = recipe_of("training", config, {})["config"]
        self.settings = {name: value for name, value in settings.items() if name not in _HOW}
        self.failed, self._in_a_row, self._why, self._kept = 0, 0, "", 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def exist(self) -> bool:
        """Whether there is one, or will be, since it is being written."""
        self._settle()
        return bool(checkpoints_in(self.out))

    def save(self, step: int, state: Mapping[str, Any], last: bool = False) -> None:
        """Write `state` as the checkpoint of `step`, whole or not at all, and drop all but the last two.

        The `last` one of a training is on the disk when this returns, and so is a small one. Raises RunFailed if too
        many in a row could not be written; not for the last one, since the model may be saved yet.
        """
        self._settle()
        self._check_failed()
        whole = {**state, "step": step, "feed": FEED, "settings": self.settings}
        if last or _num_bytes(whole) < BACKGROUND_BYTES:
            self._write(step, whole)
        else:
            self._pending = self._writer.submit(self._write, step, on_host(whole))
        if not (last or self._pending):
            self._check_failed()

    def _check_failed(self) -> None:
        if self._in_a_row >= MAX_FAILED:
            raise RunFailed(
                f"{self.out}: {self._in_a_row} checkpoints in a row cannot be written ({self._why}); make room, or see "
                "to the store, and run the same command again: it goes on from the last one that is there"
            )

    def _settle(self) -> None:
        """Wait for the one that is being written."""
        if self._pending:
            self._pending.result()
            self._pending = None

    def _write(self, step: int, state: Mapping[str, Any]) -> None:
        path = checkpoint_path(self.out, step)
        try:
            make_folder(path.parent)
            with staged_file(path) as staged, staged.open("wb") as file:
                torch.save(dict(state), file)  # given a path, torch would not report a full disk
            sync(path.parent)
            self._in_a_row, self._kept = 0, step
            self._drop(step)
        except (OSError, RuntimeError, RunFailed) as error:  # torch's own is about a file that it could not end
            self.failed, self._in_a_row = self.failed + 1, self._in_a_row + 1
            self._why = "no space left" if is_disk_full(error) else " ".join(str(error).split())[:200]
            log.warning(
                "the checkpoint of step %d could not be written (%s); the training goes on, and would start again "
                "after step %d", step, self._why, self._kept,
            )  # fmt: skip

    def _drop(self, step: int) -> None:
        """Delete all but the last two; those of later steps are damaged, or `restore` would have gone on from them."""
        found = checkpoints_in(self.out)
        kept = [one for one in found if step_of(one) <= step][:NUM_KEPT]
        for one in found:
            if one not in kept:
                gone(one)

    def restore(self, modules: Mapping[str, nn.Module], optimizer: Optimizer) -> dict[str, Any] | None:
        """Load modules and optimizer from the newest whole checkpoint; its step and log, None where there is none.

        Raises RunFailed where all are damaged, or where there is a model and none; CheckpointError where the newest is
        of another model, of other settings, or of a diverged training. Nothing is deleted then.
        """
        if (found := self._newest_whole()) is None:
            return None
        path, state = found
        if (feed := state.get("feed", 1)) != FEED:
            raise CheckpointError(
                f"{path}: of a training with its samples in another order (feed {feed}, now {FEED}); "
                f"go on with the version that began it, or delete {self.out} to begin anew"
            )
        load(path, state, modules, optimizer)
        check_settings(path, state.get("settings", {}), self.settings)
        self._kept = state["step"]
        return state

    def _newest_whole(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that is whole, and what it holds."""
        sweep(self.out / CHECKPOINTS)
        damaged: list[str] = []
        for path in checkpoints_in(self.out):
            try:
                state = read_checkpoint(path)
            except CheckpointError as error:
                damaged.append(path.name)
                last = error
                continue
            if damaged:
                log.warning("%s: %s damaged; going on from %s", self.out, " and ".join(damaged), path.name)
            return path, state
        if damaged:
            raise RunFailed(
                f"{self.out}: {' and '.join(damaged)} damaged, and there is no other checkpoint; "
                "put one back from a copy, or delete them to begin at step 0"
            ) from last
        if self.settings["steps"] and is_there(self.out / WEIGHTS):
            raise RunFailed(
                f"{self.out / WEIGHTS}: a model, without the MANIFEST.json or the checkpoint that says how far it is; "
                "put that back from a copy, or delete its folder and run again to train it anew"
            )
        return None


def load(path: Path, state: Mapping[str, Any], modules: Mapping[str, nn.Module], optimizer: Optimizer) -> None:
    """Load a checkpoint's state. Raises CheckpointError where it is of another model or of a diverged training."""
    try:
        for name, module in modules.items():
            module.load_state_dict(state[name])
        own = [{key: group.get(key) for key in _OF_THE_DEVICE if key in group} for group in optimizer.param_groups]
        moments = state["optimizer"]
        groups = [{**group, **mine} for group, mine in zip(moments["param_groups"], own, strict=True)]
        optimizer.load_state_dict({**moments, "param_groups": groups})
        for key in ("step", "log"):
            state[key]
        names = not_finite(weights_of(modules, optimizer))
    except (KeyError, RuntimeError, ValueError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path}: of another model or version ({said}); delete it and run again") from error
    if names:
        raise CheckpointError(f"{path}: of a diverged training ({names[0]} is not finite); delete it and run again")


def check_settings(path: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a checkpoint is of other settings; those of earlier versions do not tell theirs."""
    differs = [f"{name} {was[name]}, now {now[name]}" for name in sorted(was.keys() & now) if was[name] != now[name]]
    if differs:
        told = "; ".join(differs)
        raise CheckpointError(f"{path}: of a training by other settings ({told}); delete it, or use another folder")


def weights_of(modules: Mapping[str, nn.Module], optimizer: Optimizer) -> dict[str, Any]:
    """The state of each module by its name, and the optimizer's."""
    weights: dict[str, Any] = {name: module.state_dict() for name, module in modules.items()}
    return weights | {"optimizer": optimizer.state_dict()}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of `Run`, without unpickling objects. Raises CheckpointError if it is damaged."""
    fetched(path)  # a store that does not answer has damaged nothing
    try:
        with zipfile.ZipFile(path) as file:
            # torch's own reader compares no checksums: weights with a bit turned would be loaded without a word.
            if (bad := file.testzip()) is not None:
                raise zipfile.BadZipFile(bad)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return dict(state)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: a damaged checkpoint; delete it and run again") from error


def on_host(state: Any) -> Any:
    """A copy of a state in the host's memory, which no step changes."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {name: on_host(one) for name, one in state.items()}
    return [on_host(one) for one in state] if isinstance(state, list) else state


def _num_bytes(state: Any) -> int:
    if isinstance(state, Tensor):
        return state.nbytes
    if isinstance(state, Mapping):
        return sum(map(_num_bytes, state.values()))
    return sum(map(_num_bytes, state)) if isinstance(state, list) else 0
