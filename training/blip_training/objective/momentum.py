"""The momentum encoder and the feature queue of ITC (section 3.2, after ALBEF and MoCo)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor

    from blip_training.model.med import Med
    from blip_training.model.text_stack import Shared


class MomentumEncoder(nn.Module):
    """A slow copy of the two unimodal encoders: its weights follow the model's, p <- m p + (1 - m) q.

    It holds only what ITC embeddings need: no cross-attention, no causal self-attention, no LM or ITM head.
    """

    def __init__(self, med: Med, momentum: float = 0.995) -> None:
        super().__init__()
        self.momentum = momentum
        self.med = _unimodal_copy(med)
        self.names = [name for name, _ in self.med.named_parameters()]
        self._slow: list[Tensor] = list(self.med.parameters())

    @torch.no_grad()
    def update(self, med: Med) -> None:
        """One step towards the weights of `med`; after every optimizer step."""
        weights = dict(med.named_parameters())
        torch._foreach_lerp_(self._slow, [weights[name] for name in self.names], 1 - self.momentum)

    @torch.no_grad()
    def embed(
        self,
        pixels: Tensor,
        ids: Int64[Tensor, "n t"],
        mask: Int64[Tensor, "n t"],
        pooled: Float[Tensor, "n d"] | None = None,
    ) -> tuple[Float[Tensor, "b e"], Float[Tensor, "n e"]]:
        """ITC embeddings of images (pixels, or grids of the frozen stem) and texts. Dropout acts, as in the paper's.

        `pooled` is as in `Med.embed_text`.
        """
        states = self.med.encode_image(pixels)
        return self.med.embed_image(states), self.med.embed_text(ids, mask, pooled)

    def _apply(self, fn: Any, recurse: bool = True) -> MomentumEncoder:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._slow = list(self.med.parameters())
        return self


def _unimodal_copy(med: Med) -> Med:
    slow = copy.deepcopy(med)
    parts: list[Shared[Any]] = [slow.text.embeddings]
    for layer in slow.text.each_layer():
        layer.cross_attention.clear()
        parts += [layer.self_attention, layer.feed_forward]
    for part in parts:
        if "causal" in part:
            del part["causal"]
    del slow.text.lm_head, slow.itm_head, slow.temperature
    slow.set_activation_checkpointing(False)
    return slow.requires_grad_(False)


class Queue(nn.Module):
    """The last `size` momentum embeddings of images and texts with their image ids and text keys; a ring.

    Batches may be of any size. Of size 0 it stays empty. Its state goes with `state_dict`.
    """

    PARTS = ("images", "texts", "ids", "keys")

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.size, self.cursor, self.filled = size, 0, 0
        self.register_buffer("images", torch.zeros(size, dim))
        self.register_buffer("texts", torch.zeros(size, dim))
        self.register_buffer("ids", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("keys", torch.zeros(size, dtype=torch.int64))

    @torch.no_grad()
    def push(
        self,
        images: Float[Tensor, "b e"],
        texts: Float[Tensor, "b e"],
        ids: Int64[Tensor, " b"],
        keys: Int64[Tensor, " b"],
    ) -> None:
        """Put in a batch, over the oldest; of a batch larger than the queue, its last rows."""
        count = min(len(ids), self.size)
        if count == 0:
            return
        at = torch.arange(self.cursor, self.cursor + count, device=ids.device) % self.size
        for name, new in zip(self.PARTS, (images, texts, ids, keys), strict=True):
            self.get_buffer(name)[at] = new[-count:].to(self.get_buffer(name).dtype)
        self.cursor = (self.cursor + count) % self.size
        self.filled = min(self.filled + count, self.size)

    def contents(
        self,
    ) -> tuple[Float[Tensor, "q e"], Float[Tensor, "q e"], Int64[Tensor, " q"], Int64[Tensor, " q"]]:
        """Image and text embeddings, image ids and text keys of the rows filled; the next `push` writes over them."""
        images, texts, ids, keys = (self.get_buffer(name)[: self.filled] for name in self.PARTS)
        return images, texts, ids, keys

    def get_extra_state(self) -> dict[str, int]:
        """Where the ring stands."""
        return {"cursor": self.cursor, "filled": self.filled}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Where the ring stood."""
        self.cursor, self.filled = state["cursor"], state["filled"]
