"""The best model of a fine-tuning, by its loss on human pictures that it is not trained on."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from blip_bootstrap.errors import RunFailed
from blip_training.feed.batches import BatchT, StepBatches

if TYPE_CHECKING:
    from torch import Tensor

    from blip_training.model.med import Med


MAX_BATCHES = 16


class Best(nn.Module):
    """The weights with the lowest validation loss so far; saved with a training's checkpoint.

    `loss_of` gives the loss of a batch of `data`. It is measured every `every_steps` steps and after the last one.
    """

    def __init__(
        self, med: Med, data: StepBatches[BatchT], loss_of: Callable[[BatchT], Tensor], every_steps: int
    ) -> None:
        super().__init__()
        self.best = copy.deepcopy(med).requires_grad_(False)
        self.loss, self.step = math.inf, 0
        # In a tuple, so that nn.Module does not take the model in training into this module's state.
        self._watched = (med, data, loss_of, every_steps)

    def measure(self, step: int, last: bool) -> None:
        """Measure the loss if step number `step` (from 1) is one to measure at; keep the weights if they are the best.

        `last` says that no step follows: then the loss is always measured.
        """
        med, data, loss_of, every_steps = self._watched
        if step % every_steps and not last:
            return
        if -math.inf < (loss := mean_loss(med, data, loss_of)) < self.loss:
            self.loss, self.step = loss, step
            self.best.load_state_dict(med.state_dict())

    def figures(self) -> dict[str, int | float]:
        """The best step and its loss. Raises RunFailed if the loss was never finite, so that no step is the best."""
        if not math.isfinite(self.loss):
            raise RunFailed(
                "the validation loss was not finite at any step; lower optimizer.lr, or look at the human set"
            )
        return {"best_step": self.step, "validation_loss": self.loss}

    def get_extra_state(self) -> dict[str, Any]:
        """The best step and its loss, which `state_dict` stores beside the weights."""
        return {"loss": self.loss, "step": self.step}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the best step and its loss from a checkpoint."""
        self.loss, self.step = state["loss"], state["step"]


@torch.no_grad()
def mean_loss(med: nn.Module, data: StepBatches[BatchT], loss_of: Callable[[BatchT], Tensor]) -> float:
    """Mean loss over the first batches of `data`, one epoch or at most `MAX_BATCHES`; without dropout."""
    count = max(1, min(MAX_BATCHES, data.num_samples // data.feed.batch_size))
    device = next(med.parameters()).device
    med.eval()
    losses = [loss_of(batch.to(device)) for batches in data.steps(0, count) for batch in batches]
    med.train()
    return float(torch.stack(losses).mean())
