"""A folder of frozen grids by the pictures' bytes, which the trainings of all rounds, arms and runs may share."""

from __future__ import annotations

import hashlib
import math
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from jaxtyping import Float16
    from torch import Tensor


class KeptGrids:
    """Grids of a frozen stem in float16, a file each; those of each `kind` of stem lie in a folder of its own.

    Processes may write and read at once. Files are not synced: one that a power cut has cut short counts as missing.
    """

    def __init__(self, folder: Path, kind: str, shape: tuple[int, int]) -> None:
        self.folder, self.shape = folder / kind, shape

    def get(self, encoded: bytes) -> Float16[Tensor, "p c"] | None:
        """The grid of the picture with these stored bytes, or None."""
        try:
            values = np.fromfile(self._path(encoded), dtype=np.float16)
        except OSError:
            return None
        return torch.from_numpy(values.reshape(self.shape)) if values.size == math.prod(self.shape) else None

    def put(self, encoded: bytes, grid: Float16[Tensor, "p c"]) -> None:
        """Keep a grid, where the disk has room."""
        path = self._path(encoded)
        staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        with suppress(OSError):  # a training goes on without
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                grid.contiguous().numpy().tofile(staged)
                staged.replace(path)
            finally:
                staged.unlink(missing_ok=True)

    def _path(self, encoded: bytes) -> Path:
        name = hashlib.blake2b(encoded, digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.f16"
