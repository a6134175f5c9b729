"""Unimodal text states for ITC, computed once for each text where training leaves the text encoder as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from blip_training.objective.losses import text_hashes

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor

    from blip_training.model.med import Med


CACHE_BYTES = 1 << 30

CHUNK_ROWS = 32
"""Texts are encoded so many at a time, all padded to one length: a text's state does not depend on those beside it."""


def has_frozen_texts(med: Med) -> bool:
    """Whether no weight of the unimodal text encoder, below the ITC head, is trained."""
    modules: list[nn.Module] = [med.text.embeddings.of("bidirectional")]
    for layer in med.text.each_layer():
        modules += [layer.self_attention.of("bidirectional"), layer.feed_forward.of("bidirectional")]
    return not any(parameter.requires_grad for module in modules for parameter in module.parameters())


class FrozenTexts:
    """A cache of `Med.pool_text` without dropout, in float16, that holds at most `limit_bytes`."""

    def __init__(self, med: Med, limit_bytes: int = CACHE_BYTES) -> None:
        self.med, self.limit_bytes, self.size_bytes = med, limit_bytes, 0
        self._kept: dict[int, Tensor] = {}

    def pooled(self, ids: Int64[Tensor, "n t"], mask: Int64[Tensor, "n t"]) -> Float[Tensor, "n d"]:
        """The pooled state of each text, on the model's device, equal to the bit in any batch and after a restart."""
        hashes = text_hashes(ids, mask).tolist()
        places = {one: row for row, one in enumerate(hashes) if one not in self._kept}
        at = list(places.values())
        new = dict(zip(places, self._read(ids[at], mask[at]), strict=True))
        for one, vector in new.items():
            if self.size_bytes + vector.nbytes <= self.limit_bytes:
                self._kept[one] = vector.clone()
                self.size_bytes += vector.nbytes
        return torch.stack([new[one] if one in new else self._kept[one] for one in hashes]).float()

    @torch.no_grad()
    def _read(self, ids: Int64[Tensor, "n t"], mask: Int64[Tensor, "n t"]) -> Float[Tensor, "n d"]:
        """Pool texts in chunks of one shape: the last digits of a product depend on its shape."""
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
