"""The best model of a fine-tuning, by its loss on human pictures that it is not trained on."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from blip_bootstrap.errors import RunFailed
from blip_training.data.batches import BatchT, StepBatches

if TYPE_CHECKING:
    from torch import Tensor

    from blip_training.model.med import Med


MAX_BATCHES = 16


class Best(nn.Module):
    """Keeps the weights with the lowest validation loss; part of a training's checkpoint.

    `loss_of` gives the loss of a batch; it is asked every `every_steps` steps and after the last one.
    """

    def __init__(
        self, med: Med, data: StepBatches[BatchT], loss_of: Callable[[BatchT], Tensor], every_steps: int
    ) -> None:
        super().__init__()
        self.best = copy.deepcopy(med).requires_grad_(False)
        self.loss, self.step = math.inf, 0
        # The model in training and the data are not a part of this one's state.
        self.__dict__["look_at"] = (med, data, loss_of, every_steps)

    def look(self, step: int, last: bool) -> None:
        """Measure where it is time to, and keep the weights if they are the best so far."""
        med, data, loss_of, every_steps = self.__dict__["look_at"]
        if step % every_steps and not last:
            return
        if -math.inf < (loss := mean_loss(med, data, loss_of)) < self.loss:
            self.loss, self.step = loss, step
            self.best.load_state_dict(med.state_dict())

    def figures(self) -> dict[str, int | float]:
        """The best step and its loss. Raises RunFailed where no loss was ever finite, so that no step is the best."""
        if not math.isfinite(self.loss):
            raise RunFailed(
                "the validation loss was not finite at any step; lower optimizer.lr, or look at the human set"
            )
        return {"best_step": self.step, "validation_loss": self.loss}

    def get_extra_state(self) -> dict[str, Any]:
        """The best so far."""
        return {"loss": self.loss, "step": self.step}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The best of the run that is taken up again."""
        self.loss, self.step = state["loss"], state["step"]


@torch.no_grad()
def mean_loss(med: nn.Module, data: StepBatches[BatchT], loss_of: Callable[[BatchT], Tensor]) -> float:
    """Mean loss over the same batches each time, one epoch of `data` at most `MAX_BATCHES` long; no dropout."""
    count = max(1, min(MAX_BATCHES, data.num_samples // data.feed.batch_size))
    device = next(med.parameters()).device
    med.eval()
    losses = [loss_of(batch.to(device)) for batches in data.steps(0, count) for batch in batches]
    med.train()
    return float(torch.stack(losses).mean())
