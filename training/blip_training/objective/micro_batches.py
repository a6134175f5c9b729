"""A step's micro-batches: texts as tokens, and what each weighs in the step's losses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blip_training.data.batches import Batch
from blip_training.data.normalise import captions_as_seen
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.med import Med
from blip_training.objective.losses import IGNORED, lm_targets
from blip_training.runtime.workers import Worker, average

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from blip_training.objective.contrast import Ids


CUT_SHARE = 0.05
"""Of texts that are cut, above which the log says so."""

log = logging.getLogger(__name__)


def encode_texts(med: Med, tokenizer: Tokenizer, texts: Sequence[str], prompt: str = "") -> tuple[Ids, Ids]:
    """Ids and mask on the model's device, cut at the model's `max_tokens`, starting with [CLS], then `prompt`.

    Texts are normalised where the model was trained so; the prompt is not.
    """
    texts = captions_as_seen(med.config.text, texts)
    texts = [f"{prompt} {text}".strip() for text in texts] if prompt else texts
    ids, mask = tokenizer.encode(texts, med.config.text.max_tokens)
    return ids.to(med.device, non_blocking=True), mask.to(med.device, non_blocking=True)


def warn_of_cut_texts(med: Med, tokenizer: Tokenizer, texts: Sequence[str], prompt: str = "") -> None:
    """Say it in the log where `max_tokens` cuts many of `texts`: LM then teaches to stop where the cut is."""
    limit, prompt_pieces = med.config.text.max_tokens - 2, len(tokenizer.piece_ids(prompt))
    seen = captions_as_seen(med.config.text, texts)
    num_cut = sum(prompt_pieces + len(tokenizer.piece_ids(text)) > limit for text in seen)
    if num_cut > CUT_SHARE * len(texts):
        log.warning(
            "%d of %d texts are longer than model.text.max_tokens %d and are cut there",
            num_cut, len(texts), med.config.text.max_tokens,
        )  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One micro-batch of a step, number `number` of this worker's, with its texts as tokens.

    `lm_share` is the weight of its mean LM loss in the step's: 1 where all micro-batches have as many targets.
    """

    number: int
    images: Tensor
    image_ids: Int64[Tensor, " b"]
    ids: Int64[Tensor, "b t"]
    mask: Int64[Tensor, "b t"]
    lm_share: Float[Tensor, ""]


def parts_of_step(
    med: Med, tokenizer: Tokenizer, batches: Sequence[Batch], worker: Worker, prompt: str = ""
) -> list[Part]:
    """A step's micro-batches with their tokens; `prompt` goes before each text and is no target of LM.

    Micro-batches weigh by their LM targets, so that a step's LM loss is the mean over all its tokens, however many
    workers and micro-batches they are dealt to.
    """
    tokens = [encode_texts(med, tokenizer, batch.texts, prompt) for batch in batches]
    num_prompt = len(tokenizer.piece_ids(prompt))
    shares = shares_of([(lm_targets(ids, mask, num_prompt) != IGNORED).sum() for ids, mask in tokens], worker)
    return [
        Part(number, batch.images, batch.ids, ids, mask, share)
        for number, (batch, (ids, mask), share) in enumerate(zip(batches, tokens, shares, strict=True))
    ]


def shares_of(counts: Sequence[Tensor], worker: Worker) -> Float[Tensor, " k"]:
    """What each micro-batch's mean weighs in the step's, from the rows behind it; 1 on average over all workers."""
    own = torch.stack(list(counts)).float()
    return own / average({"mean": own.mean()}, worker.world)["mean"]
