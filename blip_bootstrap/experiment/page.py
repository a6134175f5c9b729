"""The page of an experiment: its arms, their differences with intervals, each seed a dot."""

from __future__ import annotations

from pathlib import Path

from blip_bootstrap.experiment.file import Experiment
from blip_bootstrap.experiment.run import Finished


def write_page(root: Path, experiment: Experiment, finished: Finished) -> Path:
    """Write the page of an experiment beside its results; its path."""
    return root / f"{experiment.name}.html"
