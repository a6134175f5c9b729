"""One micro-batch's losses, put together from losses.py: texts to tokens, momentum features, the three losses."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blip_bootstrap.config import ItcConfig, ItmConfig, OptimizerConfig
from blip_training.data import Batch, Feed
from blip_training.images import Augment
from blip_training.losses import ItcLoss, itc_loss, itm_loss
from blip_training.med import Med
from blip_training.momentum import MomentumEncoder, Queue
from blip_training.text import Tokenizer
from blip_training.workers import Worker, gather

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    Ids = Int64[Tensor, "b t"]


def encode_texts(med: Med, tokenizer: Tokenizer, texts: list[str]) -> tuple[Ids, Ids]:
    """Ids and mask on the model's device, cut at the model's `max_tokens`, starting with [CLS]."""
    ids, mask = tokenizer.encode(texts, med.config.text.max_tokens)
    return ids.to(med.device, non_blocking=True), mask.to(med.device, non_blocking=True)


def feed_of(med: Med, config: OptimizerConfig, worker: Worker, augment: Augment, human_share: float = 0.0) -> Feed:
    """How this worker's batches for `med` are made; decoded in the background where a GPU computes meanwhile."""

    def grids(pixels: Tensor) -> Tensor:
        found: Tensor = med.vision.stem(pixels.to(med.device))
        return found

    return Feed(
        batch_size=config.batch_size,
        image_size=med.config.vision.image_size,
        seed=config.seed,
        augment=augment,
        human_share=human_share,
        accumulate=config.accumulate,
        rank=worker.rank,
        world=worker.world,
        stem=grids if med.vision.has_frozen_stem else None,
        num_threads=min(8, os.cpu_count() or 1) if worker.device.type == "cuda" else 0,
    )


class Contrast:
    """ITC and ITM of a training: the momentum encoder, the queue, and the workers that share them (section 3.2)."""

    def __init__(self, med: Med, itc: ItcConfig, itm: ItmConfig, worker: Worker) -> None:
        self.med, self.itm_config, self.worker = med, itm, worker
        self.momentum = MomentumEncoder(med, itc.momentum).to(worker.device)
        self.queue = Queue(itc.queue_size, med.config.embed_dim).to(worker.device)

    def itc(self, batch: Batch, states: Float[Tensor, "b p v"], ids: Ids, mask: Ids, alpha: float) -> ItcLoss:
        """The ITC loss against the momentum features of all workers and of the queue, which takes them in."""
        slow_image, slow_text = self.momentum.embed(batch.images, ids, mask)
        everyone = [gather(own) for own in (slow_image, slow_text, batch.ids)]
        slow_images, slow_texts, slow_ids = (
            torch.cat([own, self._others(all_, len(own)), kept])
            for own, all_, kept in zip((slow_image, slow_text, batch.ids), everyone, self.queue.contents(), strict=True)
        )
        image, text = self.med.embed_image(states), self.med.embed_text(ids, mask)
        loss = itc_loss(image, text, slow_images, slow_texts, slow_ids, self.med.temperature, alpha)
        self.queue.push(*everyone)
        return loss

    def itm(
        self,
        batch: Batch,
        states: Float[Tensor, "b p v"],
        ids: Ids,
        mask: Ids,
        itc: ItcLoss,
        generator: torch.Generator,
    ) -> Tensor:
        """The ITM loss with negatives of this worker's batch."""
        config = self.itm_config
        return itm_loss(
            self.med, states, ids, mask, batch.ids, itc, generator, config.uniform_share, config.mask_duplicate_texts
        ).loss

    def follow(self) -> None:
        """After an optimizer step: the temperature in its range, the momentum encoder one step on."""
        self.med.clamp_temperature()
        self.momentum.update(self.med)

    def _others(self, gathered: Tensor, own: int) -> Tensor:
        """What other workers gave; a worker's own rows come first, as itc_loss wants them."""
        start = self.worker.rank * own
        return torch.cat([gathered[:start], gathered[start + own :]])
