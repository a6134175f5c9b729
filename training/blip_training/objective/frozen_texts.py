"""Texts whose encoder is fixed: each is read once, as the grid of a frozen image stem is computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from blip_training.objective.losses import text_keys

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor

    from blip_training.model.med import Med


CACHE_BYTES = 1 << 30

CHUNK_ROWS = 32
"""Texts are read so many at a time, all padded alike: what comes of one does not hang on the others beside it."""


def has_frozen_texts(med: Med) -> bool:
    """Whether training leaves the whole unimodal text encoder, below the ITC head, as it is."""
    parts: list[nn.Module] = [med.text.embeddings.of("bidirectional")]
    for layer in med.text.each_layer():
        parts += [layer.self_attention.of("bidirectional"), layer.feed_forward.of("bidirectional")]
    return not any(parameter.requires_grad for part in parts for parameter in part.parameters())


class FrozenTexts:
    """What `Med.pool_text` makes of texts without dropout, kept (float16) while all of it stays below `limit_bytes`."""

    def __init__(self, med: Med, limit_bytes: int = CACHE_BYTES) -> None:
        self.med, self.limit_bytes, self.size_bytes = med, limit_bytes, 0
        self._kept: dict[int, Tensor] = {}

    def pooled(self, ids: Int64[Tensor, "n t"], mask: Int64[Tensor, "n t"]) -> Float[Tensor, "n d"]:
        """Of each text, on the model's device; the same whichever texts stand beside it, and after a restart."""
        keys = text_keys(ids, mask).tolist()
        places = {key: row for row, key in enumerate(keys) if key not in self._kept}
        at = list(places.values())
        new = dict(zip(places, self._read(ids[at], mask[at]), strict=True))
        for key, vector in new.items():
            if self.size_bytes + vector.nbytes <= self.limit_bytes:
                self._kept[key] = vector.clone()
                self.size_bytes += vector.nbytes
        return torch.stack([new[key] if key in new else self._kept[key] for key in keys]).float()

    @torch.no_grad()
    def _read(self, ids: Int64[Tensor, "n t"], mask: Int64[Tensor, "n t"]) -> Float[Tensor, "n d"]:
        """In chunks of one shape: the last digits of a product follow its shape."""
        text, sizes, rows = self.med.text, self.med.config.text, len(ids)
        missing = (0, sizes.max_tokens - ids.shape[1], 0, -rows % CHUNK_ROWS)
        ids, mask = F.pad(ids * mask, missing), F.pad(mask, missing)
        mask[rows:, 0] = 1  # a row of padding alone would be divided by 0
        training = text.training
        text.eval()
        with torch.autocast(ids.device.type, enabled=False):
            chunks = [
                self.med.pool_text(ids[first : first + CHUNK_ROWS], mask[first : first + CHUNK_ROWS])
                for first in range(0, len(ids), CHUNK_ROWS)
            ]
        text.train(training)
        return torch.cat(chunks)[:rows].half() if chunks else ids.new_zeros(0, sizes.width).half()
