"""The momentum encoder and the feature queue of ITC (section 3.2, after ALBEF and MoCo)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from blip_training.model.med import Med
    from blip_training.model.text_stack import Shared


class MomentumRows(NamedTuple):
    """ITC embeddings by the momentum encoder of image-text pairs, with what says which pairs belong together.

    `images` and `texts` are [M, E]; `image_ids` and `text_hashes` [M] are equal for equal images and texts.
    """

    images: Tensor
    texts: Tensor
    image_ids: Tensor
    text_hashes: Tensor


class MomentumEncoder(nn.Module):
    """A slow copy of the two unimodal encoders, whose weights p follow the model's q: p <- m p + (1 - m) q.

    It holds only what ITC embeddings need: no cross-attention, no causal self-attention, no LM or ITM head.
    """

    def __init__(self, med: Med, momentum: float = 0.995) -> None:
        super().__init__()
        self.momentum = momentum
        self.med = _unimodal_copy(med)
        self.names = [name for name, _ in self.med.named_parameters()]

    @torch.no_grad()
    def update(self, med: Med) -> None:
        """Move one step towards the weights of `med`; to be called after every optimizer step."""
        weights = dict(med.named_parameters())
        slow: list[Tensor] = list(self.med.parameters())
        # One kernel for all weights; private in torch, held by tests/training/test_private_apis.py.
        torch._foreach_lerp_(slow, [weights[name] for name in self.names], 1 - self.momentum)

    @torch.no_grad()
    def embed(
        self,
        pixels: Tensor,
        ids: Int64[Tensor, "n t"],
        mask: Int64[Tensor, "n t"],
        pooled: Float[Tensor, "n d"] | None = None,
    ) -> tuple[Float[Tensor, "b e"], Float[Tensor, "n e"]]:
        """ITC embeddings of images (pixels, or grids of the frozen stem) and texts; dropout is on, as in ALBEF's code.

        `pooled` are the text states that the ITC head takes, if they are known (`Med.pool_text`).
        """
        return self.med.embed_pixels(pixels), self.med.embed_text(ids, mask, pooled)


def _unimodal_copy(med: Med) -> Med:
    slow = copy.deepcopy(med)
    shared: list[Shared[Any]] = [slow.text.embeddings]
    for layer in slow.text.each_layer():
        layer.cross_attention.clear()
        shared += [layer.self_attention, layer.feed_forward]
    for one in shared:
        if "causal" in one:
            del one["causal"]
    del slow.text.lm_head, slow.itm_head, slow.temperature
    slow.set_activation_checkpointing(False)
    return slow.requires_grad_(False)


class Queue(nn.Module):
    """A ring of the last `size` momentum embeddings: further negatives, and soft targets, for ITC.

    Batches may be of any size. With `size` 0 the queue stays empty. `state_dict` holds all of its state.
    """

    BUFFERS = ("images", "texts", "ids", "keys")
    """The state's names of the columns of `MomentumRows`."""

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
        image_ids: Int64[Tensor, " b"],
        text_hashes: Int64[Tensor, " b"],
    ) -> None:
        """Write a batch over the oldest rows; if it is larger than the queue, only its last rows are kept."""
        count = min(len(image_ids), self.size)
        if count == 0:
            return
        at = torch.arange(self.cursor, self.cursor + count, device=image_ids.device) % self.size
        for name, new in zip(self.BUFFERS, (images, texts, image_ids, text_hashes), strict=True):
            self.get_buffer(name)[at] = new[-count:].to(self.get_buffer(name).dtype)
        self.cursor = (self.cursor + count) % self.size
        self.filled = min(self.filled + count, self.size)

    def contents(self) -> MomentumRows:
        """The rows filled so far, as views: the next `push` writes over them."""
        return MomentumRows(*(self.get_buffer(name)[: self.filled] for name in self.BUFFERS))

    def get_extra_state(self) -> dict[str, int]:
        """The ring's position, which `state_dict` stores beside the rows."""
        return {"cursor": self.cursor, "filled": self.filled}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore the ring's position from a checkpoint."""
        self.cursor, self.filled = state["cursor"], state["filled"]
