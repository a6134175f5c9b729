"""Models that were trained to their end: what lacks of one is told, since to make it anew may take weeks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blip_bootstrap.errors import RunFailed
from blip_bootstrap.storage.run_folder import MANIFEST, TRAIN_ANEW, TRAINED
from blip_bootstrap.stores.store import is_there
from blip_training.train.checkpoint_files import checkpoints_in

WEIGHTS = "model.safetensors"


def check_trained(folder: Path, damaged: Sequence[str] | None) -> None:
    """Raise RunFailed, naming what to do, where files of a trained model are `damaged` or missing.

    None: its MANIFEST is missing. Then it may be half-made, which is told by its checkpoints. Nothing is deleted.
    """
    if folder.parent.name not in TRAINED:
        return
    if damaged is None and is_there(folder / WEIGHTS) and not checkpoints_in(folder):
        raise RunFailed(f"{folder / MANIFEST}: missing, and the model beside it is whole; {TRAIN_ANEW}")
    if damaged:
        more = f" (and {', '.join(damaged[1:])})" if damaged[1:] else ""
        raise RunFailed(f"{folder / damaged[0]}: missing or damaged{more}; {TRAIN_ANEW}")
