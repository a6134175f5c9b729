"""The micro-batches of a training step: their texts as tokens, and the weight of each in the step's mean losses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blip_training.data.normalise import captions_as_seen
from blip_training.data.tokenizer import Tokenizer
from blip_training.feed.batches import Batch
from blip_training.model.med import Med
from blip_training.objective.losses import IGNORED, WrongTexts, lm_targets
from blip_training.runtime.workers import Worker, average

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    Ids = Int64[Tensor, "b t"]


CUT_SHARE = 0.05
"""Share of cut texts above which the log warns."""

log = logging.getLogger(__name__)


def encode_texts(med: Med, tokenizer: Tokenizer, texts: Sequence[str], prompt: str = "") -> tuple[Ids, Ids]:
    """Token ids and mask (1: a token, 0: padding) of texts that all begin with `prompt`, on the model's device.

    Each row is [CLS], the prompt, the text and [SEP], cut at the model's `max_tokens`. Texts are normalised as the
    model was trained to read them; the prompt is not.
    """
    texts = captions_as_seen(med.config.text, texts)
    texts = [f"{prompt} {text}".strip() for text in texts] if prompt else texts
    ids, mask = tokenizer.encode(texts, med.config.text.max_tokens)
    return ids.to(med.device, non_blocking=True), mask.to(med.device, non_blocking=True)


def warn_of_cut_texts(med: Med, tokenizer: Tokenizer, texts: Sequence[str], prompt: str = "") -> None:
    """Log a warning if `max_tokens` cuts more than 5 % of `texts`: LM would then learn to stop at the cut."""
    limit, prompt_pieces = med.config.text.max_tokens - 2, len(tokenizer.piece_ids(prompt))
    seen = captions_as_seen(med.config.text, texts)
    num_cut = sum(prompt_pieces + len(tokenizer.piece_ids(text)) > limit for text in seen)
    if num_cut > CUT_SHARE * len(texts):
        log.warning(
            "%d of %d texts are longer than model.text.max_tokens %d and are cut there",
            num_cut, len(texts), med.config.text.max_tokens,
        )  # fmt: skip


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass of a training step sees; `number` counts this worker's micro-batches from 0.

    `images` are uint8 pixels [B, 3, H, W] or the grids of a frozen stem [B, P, C]. `lm_share` is the weight of the
    mean LM loss in the step's: 1 if all micro-batches have equally many target tokens. `wrong` are further texts that
    do not match, for ITM alone.
    """

    number: int
    images: Tensor
    image_ids: Int64[Tensor, " b"]
    ids: Int64[Tensor, "b t"]
    mask: Int64[Tensor, "b t"]
    lm_share: Float[Tensor, ""]
    wrong: WrongTexts | None = None


def micro_batches_of(
    med: Med, tokenizer: Tokenizer, batches: Sequence[Batch], worker: Worker, prompt: str = ""
) -> list[MicroBatch]:
    """This worker's micro-batches of a step with their texts as tokens.

    `prompt` goes before each text and is no target of LM. Micro-batches are weighted by their numbers of target tokens,
    so that a step's LM loss is the mean over all its tokens, whatever the number of workers and micro-batches.
    """
    tokens = [encode_texts(med, tokenizer, batch.texts, prompt) for batch in batches]
    num_prompt = len(tokenizer.piece_ids(prompt))
    shares = shares_of([(lm_targets(ids, mask, num_prompt) != IGNORED).sum() for ids, mask in tokens], worker)
    return [
        MicroBatch(number, batch.images, batch.ids, ids, mask, share)
        for number, (batch, (ids, mask), share) in enumerate(zip(batches, tokens, shares, strict=True))
    ]


def with_wrong_texts(med: Med, tokenizer: Tokenizer, batch: MicroBatch, wrong: Sequence[tuple[int, str]]) -> MicroBatch:
    """The micro-batch with further texts that do not match: each the row of its image, and the text."""
    if not wrong:
        return batch
    ids, mask = encode_texts(med, tokenizer, [text for _, text in wrong])
    return replace(batch, wrong=WrongTexts(ids, mask, torch.tensor([row for row, _ in wrong], device=ids.device)))


def shares_of(counts: Sequence[Tensor], worker: Worker) -> Float[Tensor, " k"]:
    """The weight of each micro-batch's mean loss in the step's mean, from the number of terms in each mean.

    The weights are 1 on average over all workers' micro-batches.
    """
    own = torch.stack(list(counts)).float()
    return own / average({"mean": own.mean()}, worker.world)["mean"]
