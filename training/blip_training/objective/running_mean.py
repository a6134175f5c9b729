"""The running mean of a model's weights, which may be published in place of the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class RunningMean(nn.Module):
    """A running mean w of each trained weight q: w <- k w + (1 - k) q after every step.

    `share` is k, which rises to it as (1 + n) / (10 + n) with the number n of steps: the first weights, which are
    random, are soon forgotten. Weights that are not trained have no mean. `state_dict` holds all of its state.
    """

    def __init__(self, module: nn.Module, share: float) -> None:
        super().__init__()
        self.share, self.num_steps = share, 0
        # In a tuple, so that nn.Module does not take the trained weights into this module's state.
        self._trained = (tuple(p for p in module.parameters() if p.requires_grad),)
        names = [name for name, p in module.named_parameters() if p.requires_grad]
        for name, parameter in zip(names, self._trained[0], strict=True):
            self.register_buffer(name.replace(".", "/"), parameter.detach().clone())  # names of buffers have no dots

    @torch.no_grad()
    def follow(self) -> None:
        """Move towards the weights; to be called after every step of the optimizer that was taken."""
        self.num_steps += 1
        kept = min(self.share, (1 + self.num_steps) / (10 + self.num_steps))
        torch._foreach_lerp_(self._means(), list(self._trained[0]), 1 - kept)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While the body runs, the module's weights are the means; nothing is copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for mean, weight in zip(self._means(), self._trained[0], strict=True):
            mean.data, weight.data = weight.data, mean.data

    def _means(self) -> list[Tensor]:
        return list(self.buffers())

    def get_extra_state(self) -> dict[str, int]:
        """The number of steps, which `state_dict` stores beside the means."""
        return {"num_steps": self.num_steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore the number of steps from a checkpoint."""
        self.num_steps = state["num_steps"]
