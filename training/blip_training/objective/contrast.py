"""A step's losses, put together from losses.py: texts to tokens, momentum features, what each micro-batch weighs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from blip_bootstrap.config import ItcConfig, ItmConfig
from blip_training.model.med import Med
from blip_training.objective.frozen_texts import FrozenTexts, has_frozen_texts
from blip_training.objective.losses import ItcLoss, itc_loss, itm_loss, itm_weights, possible_negatives, text_keys
from blip_training.objective.micro_batches import Part, shares_of
from blip_training.objective.momentum import MomentumEncoder, Queue
from blip_training.runtime.workers import Worker, gather, gather_with_gradient, largest

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from blip_training.model.text_stack import KeyValue

    Ids = Int64[Tensor, "b t"]


log = logging.getLogger(__name__)


class Contrast:
    """ITC and ITM of a training: the momentum encoder, the queue, and the workers that share them (section 3.2).

    A step is one batch, however it is cut: `look` takes the momentum features of all its micro-batches on all workers
    first, each ITC loss is against all of them and the queue as the last step left it, and `follow` puts them into the
    queue in the order of the batch. So ITC and the queue are what one worker without accumulation has. ITM draws its
    negatives from one micro-batch, this worker's or (`negatives: all_workers`) that of all workers together: image
    states of other micro-batches are gone, or not there yet, and keeping them is what accumulation avoids.
    """

    def __init__(self, med: Med, itc: ItcConfig, itm: ItmConfig, worker: Worker) -> None:
        self.med, self.itc_config, self.itm_config, self.worker = med, itc, itm, worker
        self.momentum = MomentumEncoder(med, itc.momentum).to(worker.device)
        self.queue = Queue(itc.queue_size, med.config.embed_dim).to(worker.device)
        self._all_workers = itm.negatives == "all_workers" and worker.world > 1
        self._texts = FrozenTexts(med) if has_frozen_texts(med) else None
        self._pooled: list[Tensor | None] = []
        self._slow: list[Tensor] = []
        self._pools: list[tuple[Tensor, Tensor, Tensor]] = []
        self._itm_shares = torch.ones(0)

    def look(self, parts: Sequence[Part]) -> None:
        """The momentum features of a step, before its losses; and what each micro-batch weighs in its ITM loss."""
        self._pooled = [self._texts.pooled(part.ids, part.mask) if self._texts else None for part in parts]
        features = [
            self.momentum.embed(part.images, part.ids, part.mask, pooled)
            for part, pooled in zip(parts, self._pooled, strict=True)
        ]
        images, texts = (torch.cat(own) for own in zip(*features, strict=True))
        image_ids = torch.cat([part.image_ids for part in parts])
        keys = torch.cat([text_keys(part.ids, part.mask) for part in parts])
        self._slow = [gather(own) for own in (images, texts, image_ids, keys)]
        self._pools = [(part.ids, part.mask, part.image_ids) for part in parts]
        if self._all_workers:
            self._pools = _pools_of_all(parts)
        judged = [self._num_judged(ids, image_ids) for ids, _, image_ids in self._pools]
        self._itm_shares = shares_of(judged, self.worker)

    def itc(self, part: Part, states: Float[Tensor, "b p v"], alpha: float) -> ItcLoss:
        """The ITC loss of a micro-batch against the momentum features of the whole step and of the queue."""
        image = self.med.embed_image(states)
        text = self.med.embed_text(part.ids, part.mask, self._pooled[part.number])
        at = self._place(part, self.worker.rank)  # itc_loss wants a micro-batch's own rows first
        slow_images, slow_texts, slow_ids, slow_keys = (
            torch.cat([all_[at], all_[: at.start], all_[at.stop :], kept])
            for all_, kept in zip(self._slow, self.queue.contents(), strict=True)
        )
        loss = itc_loss(
            image, text, slow_images, slow_texts, slow_ids, self.med.temperature, alpha, slow_keys,
            self.itc_config.equal_texts,
        )  # fmt: skip
        return self._similarities(loss, part, image, text) if self._all_workers else loss

    def itm(
        self,
        part: Part,
        states: Float[Tensor, "b p v"],
        itc: ItcLoss,
        generator: torch.Generator,
        keys: list[KeyValue] | None = None,
    ) -> Float[Tensor, ""]:
        """The ITM loss of a micro-batch; `generator` is in the same state on every worker, `keys` as in itm_loss."""
        config = self.itm_config
        if self._all_workers:
            states = gather_with_gradient(states)
        ids, mask, image_ids = self._pools[part.number]
        found = itm_loss(
            self.med, states, ids, mask, image_ids, itc, generator, config.uniform_share, config.mask_duplicate_texts,
            self._rows(len(part.ids)), keys,
        )  # fmt: skip
        return found.loss * self._itm_shares[part.number]

    def follow(self) -> None:
        """After a step that was taken: its features into the queue, temperature in range, momentum one step on."""
        self.queue.push(*self._slow)
        self.med.clamp_temperature(self.itc_config.min_temperature)
        self.momentum.update(self.med)

    def _place(self, part: Part, rank: int) -> slice:
        """Where the micro-batch of a worker stands in the step."""
        size, num_parts = len(part.ids), len(self._pools)
        start = (rank * num_parts + part.number) * size
        return slice(start, start + size)

    def _rows(self, size: int) -> slice | None:
        """This worker's among the rows that ITM is given; None: all."""
        return slice(self.worker.rank * size, (self.worker.rank + 1) * size) if self._all_workers else None

    def _num_judged(self, ids: Tensor, image_ids: Tensor) -> Tensor:
        """The pairs that ITM judges in this worker's micro-batch."""
        allowed = possible_negatives(image_ids, ids, self.itm_config.mask_duplicate_texts)
        size = len(ids) // self.worker.world if self._all_workers else len(ids)
        return itm_weights(allowed, self._rows(size) or slice(None)).sum()

    def _similarities(self, own: ItcLoss, part: Part, image: Tensor, text: Tensor) -> ItcLoss:
        """The same loss with the similarities of all workers' micro-batches."""
        places = [self._place(part, rank) for rank in range(self.worker.world)]
        slow_image, slow_text = (torch.cat([all_[at] for at in places]) for all_ in self._slow[:2])
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            image_to_text = gather(image) @ slow_text.T / self.med.temperature
            text_to_image = gather(text) @ slow_image.T / self.med.temperature
        return replace(own, image_to_text=image_to_text, text_to_image=text_to_image)


def _pools_of_all(parts: Sequence[Part]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Ids, mask and image ids of each micro-batch of all workers, padded to the longest text."""
    width = largest(max(part.ids.shape[1] for part in parts), parts[0].ids.device)
    padded = [(F.pad(one, (0, width - one.shape[1])) for one in (part.ids * part.mask, part.mask)) for part in parts]
    return [
        (gather(ids), gather(mask), gather(part.image_ids)) for (ids, mask), part in zip(padded, parts, strict=True)
    ]
