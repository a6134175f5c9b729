"""What a captioner says of texts beside their own pictures: their log-likelihood, and its own ITC similarity."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from blip_pipelines.scoring.compare import as_tensors
from blip_pipelines.scoring.lanes import Lanes
from blip_pipelines.scoring.models import Model
from blip_pipelines.scoring.rows import CaptionRow, Texts
from blip_pipelines.scoring.scores import flatten, in_parts
from blip_training.data.normalise import captions_as_seen
from blip_training.evaluate.likelihood import log_likelihoods
from blip_training.model.med import EMBED
from blip_training.objective.micro_batches import encode_texts


def set_logprob(captioner: Model, rows: Texts, states: Tensor, prompt: str, lanes: Lanes) -> None:
    """Set `logprob` and `pieces` of given texts that are to be read, by a captioner that did not write them.

    The captioner reads the prompt before each, whose tokens do not count, and [SEP] after it, which does. A text is
    normalised as the captioner was trained, and cut at its `max_tokens`.
    """
    num_prompt = len(captioner.tokenizer.piece_ids(prompt))
    _set_pieces(captioner, [row for of_image in rows for row in of_image], prompt)
    lengths = [max((len(row.pieces) for row in of_image), default=0) for of_image in rows]
    parts = in_parts(rows, lengths, states.device.type)

    def read(part: list[int]) -> Tensor:
        flat = [row for i in part for row in rows[i]]
        ids, mask = as_tensors(captioner, [row.pieces for row in flat])
        return log_likelihoods(captioner.med, states[part], ids, mask, num_prompt)

    for part, found in zip(parts, lanes.map(read, parts), strict=True):
        flat = [row for i in part for row in rows[i]]
        for row, logprob in zip(flat, found.tolist(), strict=True):
            row.set_logprob(logprob, num_prompt)


def _set_pieces(captioner: Model, flat: Sequence[CaptionRow], prompt: str) -> None:
    if flat:
        ids, mask = encode_texts(captioner.med, captioner.tokenizer, [row.caption for row in flat], prompt)
        for row, own, length in zip(flat, ids.tolist(), mask.sum(1).tolist(), strict=True):
            row.pieces = tuple(own[1:length])


def set_captioner_itc(captioner: Model, rows: Texts, states: Tensor, lanes: Lanes) -> None:
    """Set `captioner_itc` of texts that are to be read; nothing where the captioner's checkpoint has no ITC."""
    if EMBED not in captioner.med.capabilities:
        return
    lengths = [max((row.num_tokens for row in of_image), default=0) for of_image in rows]

    def score(part: list[int]) -> None:
        flat, image_of_row = flatten([rows[i] for i in part], states.device)
        seen = captions_as_seen(captioner.med.config.text, [row.caption for row in flat])
        ids, mask = captioner.tokenizer.encode(seen, captioner.med.config.text.max_tokens)
        ids, mask = ids.to(states.device), mask.to(states.device)
        for row, cosine in zip(
            flat, captioner.med.cosines(states[part], ids, mask, image_of_row).tolist(), strict=True
        ):
            row.captioner_itc = cosine

    lanes.map(score, in_parts(rows, lengths, states.device.type))
