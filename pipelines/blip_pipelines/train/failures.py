"""Counts the failures of a training in a row: the first one after a new checkpoint is a first one again."""

from __future__ import annotations

from pathlib import Path

from blip_bootstrap.errors import RunFailed
from blip_training.train.checkpoint_files import newest_step

MAX_FAILURES = 3
"""A training that has failed so often without a new checkpoint in between is not started again."""

ARM_MODEL = "model"
"""In the folder of a control arm: its training."""


def progress_of(out: Path) -> int:
    """The step of the newest checkpoint of the training in `out`, here or on the run's store; 0 where there is none.

    Of a control arm that of its model. A checkpoint gets its name once it is whole, and is not read for this.
    """
    return max(newest_step(out), newest_step(out / ARM_MODEL))


class Failures:
    """The failures of the training `name` in `out` since its last new checkpoint."""

    def __init__(self, name: str, out: Path) -> None:
        self.name, self.out = name, out
        self.step, self.in_a_row = progress_of(out), 0

    def count(self, cause: str) -> bool:
        """Count a failure; whether there was a new checkpoint before it, so that it is the first one in a row.

        Raises RunFailed where it is one too many, with the step, the cause and what to do.
        """
        step = progress_of(self.out)
        progress, self.step = step > self.step, step
        self.in_a_row = 1 if progress else self.in_a_row + 1
        if self.in_a_row >= MAX_FAILURES:
            since = f"since its checkpoint of step {step:,}" if step else "without a checkpoint"
            raise RunFailed(
                f"{self.name}: failed {self.in_a_row} times in a row {since} ({cause}); see what ends it there "
                "(memory, a disk, a node), and run the same command again to go on"
            )
        return progress
