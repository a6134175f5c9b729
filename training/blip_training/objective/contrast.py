"""ITC and ITM of one training step, over its micro-batches, its workers and the queue (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from blip_bootstrap.config import ItcConfig, ItmConfig
from blip_training.model.flops import Flops, contrastive_flops
from blip_training.model.med import Med
from blip_training.objective.frozen_texts import FrozenTexts, has_frozen_texts
from blip_training.objective.losses import (
    ItcLoss,
    WrongTexts,
    itc_loss,
    itm_loss,
    itm_weights,
    possible_negatives,
    text_hashes,
)
from blip_training.objective.micro_batches import MicroBatch, shares_of
from blip_training.objective.momentum import MomentumEncoder, MomentumRows, Queue
from blip_training.runtime.workers import Worker, gather, gather_with_gradient, largest

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from blip_training.model.cross_attention import KeyValue


@dataclass(frozen=True)
class ItmRows:
    """The texts and image ids that ITM draws negatives from in one micro-batch."""

    ids: Int64[Tensor, "b t"]
    mask: Int64[Tensor, "b t"]
    image_ids: Int64[Tensor, " b"]


@dataclass(frozen=True)
class StepFeatures:
    """What the losses of all micro-batches of a step need to know about each other; made before the first of them.

    `momentum` are the momentum features of the whole step: the rows of all workers in the order of their ranks, each
    worker's micro-batches in order. The other fields have one entry for each micro-batch of this worker: `pooled` the
    kept text states [B, D], None unless the text encoder is frozen; `itm_rows` the candidates for negatives;
    `itm_shares` [K] the weight of the micro-batch's mean ITM loss in the step's.
    """

    momentum: MomentumRows
    pooled: Sequence[Tensor | None]
    itm_rows: Sequence[ItmRows]
    itm_shares: Tensor


class Contrast:
    """The losses ITC and ITM of a training, with the momentum encoder and the queue that belong to them (section 3.2).

    A step is one batch, however it is cut into micro-batches and shared out to workers: each ITC loss compares with the
    momentum features of the whole step and with the queue as the last step left it, and the step's features enter the
    queue in the order of the batch. ITM draws its negatives from one micro-batch: this worker's, or with `negatives:
    all_workers` those of all workers together. The image states of other micro-batches are freed or not yet made, which
    is what accumulation saves memory by.
    """

    def __init__(self, med: Med, itc: ItcConfig, itm: ItmConfig, worker: Worker) -> None:
        self.med, self.itc_config, self.itm_config, self.worker = med, itc, itm, worker
        self.momentum = MomentumEncoder(med, itc.momentum).to(worker.device)
        self.queue = Queue(itc.queue_size, med.config.embed_dim).to(worker.device)
        self._all_workers = itm.negatives == "all_workers" and worker.world > 1
        self._texts = FrozenTexts(med) if has_frozen_texts(med) else None

    def features(self, micro_batches: Sequence[MicroBatch]) -> StepFeatures:
        """The momentum features of a step, and the weight of each micro-batch in its ITM loss."""
        pooled = [self._texts.pooled(one.ids, one.mask) if self._texts else None for one in micro_batches]
        embedded = [
            self.momentum.embed(one.images, one.ids, one.mask, known)
            for one, known in zip(micro_batches, pooled, strict=True)
        ]
        images, texts = (torch.cat(own) for own in zip(*embedded, strict=True))
        image_ids = torch.cat([one.image_ids for one in micro_batches])
        hashes = torch.cat([text_hashes(one.ids, one.mask) for one in micro_batches])
        momentum = MomentumRows(*(gather(own) for own in (images, texts, image_ids, hashes)))
        rows = [ItmRows(one.ids, one.mask, one.image_ids) for one in micro_batches]
        if self._all_workers:
            rows = _rows_of_all_workers(micro_batches)
        judged = zip(rows, micro_batches, strict=True)
        shares = shares_of([self._num_judged(own, one.wrong) for own, one in judged], self.worker)
        return StepFeatures(momentum, pooled, rows, shares)

    def itc(self, step: StepFeatures, batch: MicroBatch, states: Float[Tensor, "b p v"], alpha: float) -> ItcLoss:
        """The ITC loss of a micro-batch against the momentum features of the whole step and of the queue."""
        image = self.med.embed_image(states)
        text = self.med.embed_text(batch.ids, batch.mask, step.pooled[batch.number])
        at = self._place(step, batch, self.worker.rank)  # itc_loss wants the micro-batch's own rows first
        slow_images, slow_texts, slow_ids, slow_hashes = (
            torch.cat([rows[at], rows[: at.start], rows[at.stop :], queued])
            for rows, queued in zip(step.momentum, self.queue.contents(), strict=True)
        )
        loss = itc_loss(
            image, text, slow_images, slow_texts, slow_ids, self.med.temperature, alpha, slow_hashes,
            self.itc_config.equal_texts,
        )  # fmt: skip
        return self._over_workers(loss, step, batch, image, text) if self._all_workers else loss

    def itm(
        self,
        step: StepFeatures,
        batch: MicroBatch,
        states: Float[Tensor, "b p v"],
        itc: ItcLoss,
        generator: torch.Generator,
        keys: list[KeyValue] | None = None,
    ) -> Float[Tensor, ""]:
        """The ITM loss of a micro-batch, weighted by its share of the pairs that ITM judges in the step.

        `generator`, which draws the negatives, is in one state on all workers. `keys` are as in `itm_loss`.
        """
        config, rows = self.itm_config, step.itm_rows[batch.number]
        if self._all_workers:
            states = gather_with_gradient(states)
        found = itm_loss(
            self.med, states, rows.ids, rows.mask, rows.image_ids, itc, generator, config.uniform_share,
            config.mask_duplicate_texts, self._own_rows(len(batch.ids)), keys, batch.wrong,
        )  # fmt: skip
        return found.loss * step.itm_shares[batch.number]

    def update(self, step: StepFeatures) -> None:
        """Follow an optimizer step: clamp the temperature, move the momentum encoder, put the features into the queue.

        To be called only if the optimizer step was taken: after a skipped one, momentum and queue must stay.
        """
        self.queue.push(*step.momentum)
        self.med.clamp_temperature(self.itc_config.min_temperature)
        self.momentum.update(self.med)

    def flops(self, step: StepFeatures, with_lm: bool, with_itm: bool) -> Flops:
        """What a micro-batch of the step needs for its losses, momentum features included."""
        num_compared = len(step.momentum.images) + self.queue.filled
        return contrastive_flops(self.med.config, self.med.num_tokens, num_compared, with_lm, with_itm)

    def _place(self, step: StepFeatures, batch: MicroBatch, rank: int) -> slice:
        """The rows of worker `rank`'s micro-batch among those of the whole step."""
        size = len(batch.ids)
        start = (rank * len(step.itm_rows) + batch.number) * size
        return slice(start, start + size)

    def _own_rows(self, size: int) -> slice | None:
        """This worker's rows among those of all workers; None: there are no others."""
        return slice(self.worker.rank * size, (self.worker.rank + 1) * size) if self._all_workers else None

    def _num_judged(self, rows: ItmRows, wrong: WrongTexts | None) -> Tensor:
        """The number of pairs that ITM judges in this worker's micro-batch."""
        allowed = possible_negatives(rows.image_ids, rows.ids, self.itm_config.mask_duplicate_texts)
        size = len(rows.ids) // self.worker.world if self._all_workers else len(rows.ids)
        judged = itm_weights(allowed, self._own_rows(size) or slice(None)).sum()
        return judged if wrong is None else judged + len(wrong.ids)

    def _over_workers(
        self, own: ItcLoss, step: StepFeatures, batch: MicroBatch, image: Tensor, text: Tensor
    ) -> ItcLoss:
        """`own` with the similarities of all workers' micro-batches of this number, to draw negatives by."""
        places = [self._place(step, batch, rank) for rank in range(self.worker.world)]
        slow_image, slow_text = (
            torch.cat([rows[at] for at in places]) for rows in (step.momentum.images, step.momentum.texts)
        )
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            image_to_text = gather(image) @ slow_text.T / self.med.temperature
            text_to_image = gather(text) @ slow_image.T / self.med.temperature
        return replace(own, image_to_text=image_to_text, text_to_image=text_to_image)


def _rows_of_all_workers(micro_batches: Sequence[MicroBatch]) -> list[ItmRows]:
    """For each micro-batch number the rows of all workers, padded to the step's longest text."""
    width = largest(max(one.ids.shape[1] for one in micro_batches), micro_batches[0].ids.device)
    rows = []
    for one in micro_batches:
        ids, mask = (F.pad(own, (0, width - own.shape[1])) for own in (one.ids * one.mask, one.mask))
        rows.append(ItmRows(gather(ids), gather(mask), gather(one.image_ids)))
    return rows
