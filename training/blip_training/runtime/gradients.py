"""Gradients of several workers, averaged by torch's DistributedDataParallel while the backward pass still runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Losses = Mapping[str, Tensor]

LossesOf = Callable[[], Losses]
"""Computes the losses of one micro-batch, by any calls of the model."""

BUCKET_MIB = 25
"""An exchange begins as soon as so many MiB of gradients are there; torch's default."""


class SharedGradients:
    """Makes the gradients of `model` the means over all workers, in buckets, beside the backward pass.

    DistributedDataParallel wants one forward pass, and losses of MED are made by many calls of the model: the pass is
    that of a module around it, which calls what it is given. The model itself, its names and its methods stay as they
    are. A weight that no worker's loss depends on keeps no gradient, as with one worker, and the optimizer leaves it.

    Exchanges of a loss's own backward pass (`gather_with_gradient`) share the process group with the buckets. All
    workers issue both in one order, since autograd runs nodes in the reverse of the order they were made in.
    """

    def __init__(self, model: nn.Module, compiled: bool = False) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the old name of a setting, which torch 2.6 has alone
            self._shared = DistributedDataParallel(
                _AnyLosses(model),
                broadcast_buffers=False,  # the model has none that training changes
                init_sync=False,  # `begin_alike` has seen to it, for what lies beside the model as well
                bucket_cap_mb=BUCKET_MIB,
                # ITM's head has no gradient before its first step, nor has a captioner's ITC head. It also keeps the
                # buckets as they were made, and with them the order of sums: a resumed training repeats its bits.
                find_unused_parameters=True,
                gradient_as_bucket_view=True,  # no second copy of the gradients
            )
        if compiled:  # else _dynamo, which torch imports when it is asked for, would cost seconds
            # A compiled block's gradients come all at once anyway; split by buckets it would be several graphs.
            torch._dynamo.config.optimize_ddp = False

    def losses(self, losses_of: LossesOf, last: bool) -> Losses:
        """What `losses_of` gives; the backward pass of the step's `last` micro-batch then exchanges all gradients.

        Those of the micro-batches before are only added up, on each worker.
        """
        with nullcontext() if last else self._shared.no_sync():
            found: Losses = self._shared(losses_of)
        return found


class _AnyLosses(nn.Module):
    """A module whose forward pass is whatever it is given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # Each worker would print a paragraph where it finds no unused weight. This one is never used.
        self.unused = nn.Parameter(torch.zeros((), device=next(model.parameters()).device))

    def forward(self, losses_of: LossesOf) -> Losses:
        """Compute the losses."""
        return losses_of()
