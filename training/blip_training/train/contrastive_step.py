"""One training step on ITC and ITM, and LM where wanted: pre-training's and the filter's (section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from blip_training.model.cross_attention import KeyValue
from blip_training.objective.contrast import Contrast, StepFeatures
from blip_training.objective.micro_batches import MicroBatch
from blip_training.train.run import Run

LmOf = Callable[[MicroBatch, Tensor, list[KeyValue] | None], Tensor]
"""The mean LM loss of a micro-batch from its image states [B, 1 + P, Dv] and the images' keys and values, if shared."""


def contrastive_step(
    run: Run, contrast: Contrast, micro_batches: Sequence[MicroBatch], alpha: float, lm_of: LmOf | None = None
) -> bool:
    """Train one step on ITC + ITM, and on LM if `lm_of` is given; whether the step was taken.

    The momentum features of all micro-batches come first, since every ITC loss compares with all of them; then each
    micro-batch's losses and their gradients; then the optimizer; then temperature, momentum encoder and queue follow.
    A step whose loss or gradient is not finite is skipped, and leaves weights, momentum encoder and queue as they were.
    `alpha` (0..1) is the weight of ITC's soft targets. Raises RunFailed as `Run.update` does.
    """
    with run.autocast():
        features = contrast.features(micro_batches)
    for batch in micro_batches:
        losses = run.losses(partial(_losses, run, contrast, features, batch, alpha, lm_of))
        run.backward(losses)
        run.pace.did(contrast.flops(features, with_lm="lm" in losses, with_itm="itm" in losses), batch.mask)
    taken = run.update(alpha=alpha, temperature=contrast.med.temperature.detach())
    if taken:
        contrast.update(features)
    return taken


def _losses(
    run: Run, contrast: Contrast, features: StepFeatures, batch: MicroBatch, alpha: float, lm_of: LmOf | None
) -> dict[str, Tensor]:
    """The losses of one micro-batch; from step `itm.start_step` on with ITM."""
    med = contrast.med
    states = med.encode_image(batch.images)  # [B, 1 + P, Dv]
    keys = med.shared_keys(states) if lm_of else None  # ITM alone has no second use for them
    itc = contrast.itc(features, batch, states, alpha)
    losses = {"itc": itc.loss}
    if run.step >= contrast.itm_config.start_step:
        losses["itm"] = contrast.itm(features, batch, states, itc, run.generator, keys)
    if lm_of:
        losses["lm"] = lm_of(batch, states, keys) * batch.lm_share
    return losses
