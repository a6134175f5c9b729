"""The three losses of MED: image-text contrastive, image-text matching, language modelling (section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from blip_training.model.vqa import Vqa

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64
    from torch import Tensor

    from blip_bootstrap.config import EqualTexts
    from blip_training.model.cross_attention import KeyValue
    from blip_training.model.med import Med


IGNORED = -100

HARD_FLOOR = 1e-4
"""Added to the probabilities of hard negatives, as in the released code, so that each allowed one can be drawn."""

HASH_FACTOR = 0x5851F42D4C957F2D

FAR_APART = -1e9
"""Similarity over temperature of a masked pair: its probability is 0, and finite, so that 0 times it is 0."""


@dataclass(frozen=True)
class ItcLoss:
    """The ITC loss, and the similarities over temperature within the batch, by which ITM draws hard negatives.

    `embedded` are the embeddings of its images and texts.
    """

    loss: Float[Tensor, ""]
    image_to_text: Float[Tensor, "b b"]
    text_to_image: Float[Tensor, "b b"]
    embedded: tuple[Tensor, Tensor] | None = None


def itc_loss(
    image: Float[Tensor, "b e"],
    text: Float[Tensor, "b e"],
    slow_image: Float[Tensor, "m e"],
    slow_text: Float[Tensor, "m e"],
    slow_ids: Int64[Tensor, " m"],
    temperature: Float[Tensor, ""],
    alpha: float,
    slow_hashes: Int64[Tensor, " m"] | None = None,
    equal_texts: EqualTexts = "positives",
) -> ItcLoss:
    """Image-text contrastive loss with a momentum encoder's soft targets (section 3.2, after ALBEF).

    `slow_*` are momentum embeddings: the batch's rows first, in its order, then those of other micro-batches, workers
    and the queue. `slow_ids` name the images: all pairs of one image are positives and share the weight. `slow_hashes`
    name the texts (`text_hashes`); with `equal_texts: positives` equal texts of other images are positives too, with
    `masked` neither positives nor negatives. `alpha` (0..1) is the weight of the soft targets.
    """
    batch = len(image)
    positive, masked = partners(slow_ids, slow_hashes, batch, equal_texts)
    # Similarities over a temperature of .07 and less need more than bfloat16's eight bits.
    with torch.autocast(image.device.type, enabled=False):
        image_to_text, text_to_image = image @ slow_text.T / temperature, text @ slow_image.T / temperature
        both = image_to_text[:, :batch].detach(), text_to_image[:, :batch].detach()
        with torch.no_grad():
            hard = positive / positive.sum(1, keepdim=True)
            soft_image = slow_image[:batch] @ slow_text.T / temperature
            soft_text = slow_text[:batch] @ slow_image.T / temperature
        if masked is not None:
            image_to_text, text_to_image, soft_image, soft_text = (
                one.masked_fill(masked, FAR_APART) for one in (image_to_text, text_to_image, soft_image, soft_text)
            )
        image_target = torch.lerp(hard, F.softmax(soft_image, dim=1), alpha)
        text_target = torch.lerp(hard, F.softmax(soft_text, dim=1), alpha)
        loss = (F.cross_entropy(image_to_text, image_target) + F.cross_entropy(text_to_image, text_target)) / 2
    return ItcLoss(loss, *both, (image, text))


def partners(
    slow_ids: Int64[Tensor, " m"], slow_hashes: Int64[Tensor, " m"] | None, batch: int, equal_texts: EqualTexts
) -> tuple[Float[Tensor, "b m"], Bool[Tensor, "b m"] | None]:
    """Which of M momentum pairs are positives (1) of each row of the batch, and which are masked; None: none."""
    same_image = slow_ids[:batch, None] == slow_ids
    if slow_hashes is None or equal_texts == "negatives":
        return same_image.float(), None
    same_text = slow_hashes[:batch, None] == slow_hashes
    if equal_texts == "positives":
        return (same_image | same_text).float(), None
    return same_image.float(), same_text & ~same_image


def text_hashes(ids: Int64[Tensor, "n t"], mask: Int64[Tensor, "n t"]) -> Int64[Tensor, " n"]:
    """A 64-bit hash of each text's tokens, which does not depend on its padding."""
    factors = torch.full_like(ids[0], HASH_FACTOR).cumprod(0)  # overflow is meant
    return (ids * mask * factors).sum(1)


@dataclass(frozen=True)
class WrongTexts:
    """Texts beside the batch's own that do not match: E texts, and the row of the micro-batch's image of each."""

    ids: Int64[Tensor, "e t"]
    mask: Int64[Tensor, "e t"]
    image_of_row: Int64[Tensor, " e"]


@dataclass(frozen=True)
class ItmLoss:
    """The ITM loss, with logits and labels of 3 B pairs: B positives, B with a wrong text, B with a wrong image.

    The pairs of `WrongTexts` follow these.
    """

    loss: Float[Tensor, ""]
    logits: Float[Tensor, "n 2"]
    labels: Int64[Tensor, " n"]


def itm_loss(
    med: Med,
    states: Float[Tensor, "b p v"],
    ids: Int64[Tensor, "b t"],
    mask: Int64[Tensor, "b t"],
    image_ids: Int64[Tensor, " b"],
    similarity: ItcLoss,
    generator: torch.Generator | None = None,
    uniform_share: float = 0.0,
    mask_duplicate_texts: bool = True,
    rows: slice | None = None,
    keys: list[KeyValue] | None = None,
    wrong: WrongTexts | None = None,
) -> ItmLoss:
    """Image-text matching with one wrong text per image and one wrong image per text (section 3.2).

    Negatives are drawn from the batch in proportion to the softmax of the ITC similarities, a share `uniform_share`
    (0..1) of them uniformly. Never drawn are pairs of one image and, with `mask_duplicate_texts`, of equal texts. A row
    without a possible negative has weight 0 there. `ids` start with [CLS], as for `embed_text`. `rows` are the images
    and texts whose loss is taken, by default all; the others serve as negatives. `keys` are `med.shared_keys(states)`,
    if they are needed elsewhere too and there are no `rows`. Each text of `wrong` is one more pair that does not match,
    of weight 1.
    """
    allowed = possible_negatives(image_ids, ids, mask_duplicate_texts)
    taken = slice(None) if rows is None else rows
    wrong_text = draw_negatives(similarity.image_to_text, allowed, generator, uniform_share)[taken]
    wrong_image = draw_negatives(similarity.text_to_image, allowed.T, generator, uniform_share)[taken]
    own = torch.arange(len(ids), device=ids.device)[taken]
    text_of_row, image_of_row = torch.cat([own, wrong_text, own]), torch.cat([own, own, wrong_image])
    if rows is not None:  # keys and values of no more images than are attended to
        at = torch.arange(len(own), device=ids.device)
        states, image_of_row = states[torch.cat([own, wrong_image])], torch.cat([at, at, at + len(own)])
    labels = torch.cat([torch.ones_like(own), torch.zeros_like(own), torch.zeros_like(own)])
    weight = itm_weights(allowed, taken)
    if wrong is not None:  # images of this worker's rows come first, with `rows` or without
        text_of_row = torch.cat([text_of_row, len(ids) + torch.arange(len(wrong.ids), device=ids.device)])
        image_of_row = torch.cat([image_of_row, wrong.image_of_row])
        ids, mask = _stacked(ids, wrong.ids), _stacked(mask, wrong.mask)
        labels, weight = F.pad(labels, (0, len(wrong.ids))), F.pad(weight, (0, len(wrong.ids)), value=1.0)
    cosines = None
    if med.config.itc_in_itm and rows is None:  # every text stands in some three pairs
        image, text = _embedded(med, states, ids, mask, similarity)
        cosines = (image[image_of_row] * text[text_of_row]).sum(-1)
    logits = med.match(states, ids[text_of_row], mask[text_of_row], image_of_row, None if rows else keys, cosines)
    loss = F.cross_entropy(logits, labels, reduction="none")
    return ItmLoss((loss * weight).sum() / weight.sum(), logits.detach(), labels)


def _embedded(
    med: Med, states: Float[Tensor, "b p v"], ids: Int64[Tensor, "n t"], mask: Int64[Tensor, "n t"], known: ItcLoss
) -> tuple[Float[Tensor, "b e"], Float[Tensor, "n e"]]:
    """ITC embeddings of images and texts, as the ITC loss has them; with dropout, texts are read once more."""
    if known.embedded is None or (med.training and med.config.text.dropout):
        return med.embed_image(states), med.embed_text(ids, mask)
    image, text = known.embedded
    more = slice(len(text), None)  # wrong texts, which ITC has not seen
    return image, torch.cat([text, med.embed_text(ids[more], mask[more])]) if len(ids) > len(text) else text


def _stacked(first: Int64[Tensor, "b t"], second: Int64[Tensor, "e u"]) -> Int64[Tensor, "n w"]:
    """The rows of both, padded to the wider."""
    width = max(first.shape[1], second.shape[1])
    return torch.cat([F.pad(one, (0, width - one.shape[1])) for one in (first, second)])


def possible_negatives(
    image_ids: Int64[Tensor, " b"], ids: Int64[Tensor, "b t"], mask_duplicate_texts: bool = True
) -> Bool[Tensor, "b b"]:
    """Whether image i and text j can serve as a pair that does not match."""
    allowed = image_ids[:, None] != image_ids[None, :]
    return allowed & (ids[:, None, :] != ids[None, :, :]).any(-1) if mask_duplicate_texts else allowed


def itm_weights(allowed: Bool[Tensor, "b b"], rows: slice) -> Float[Tensor, " n"]:
    """The weight of each pair, in the order of `ItmLoss`: 0 if its row has no possible negative, else 1."""
    own = torch.ones(len(allowed), device=allowed.device)
    return torch.cat([own[rows], allowed.any(1)[rows], allowed.any(0)[rows]])


@torch.no_grad()
def draw_negatives(
    similarity: Float[Tensor, "b b"],
    allowed: Bool[Tensor, "b b"],
    generator: torch.Generator | None = None,
    uniform_share: float = 0.0,
) -> Int64[Tensor, " b"]:
    """Draw an allowed column for each row, by the softmax of the similarities mixed with a uniform share (section 3.2).

    For a row without an allowed column any column is drawn.
    """
    hard = (F.softmax(similarity.float(), dim=1) + HARD_FLOOR) * allowed
    uniform = allowed / allowed.sum(1, keepdim=True).clamp(min=1)
    weights = torch.lerp(hard / hard.sum(1, keepdim=True).clamp(min=HARD_FLOOR), uniform, uniform_share)
    # A diverged model has NaN similarities; its step will be skipped, and torch.multinomial must not raise before.
    usable = allowed.any(1, keepdim=True) & weights.isfinite().all(1, keepdim=True)
    weights = torch.where(usable, weights, 1.0)
    return torch.multinomial(weights, 1, generator=generator).squeeze(1)


def lm_loss(
    med: Med,
    states: Float[Tensor, "b p v"],
    ids: Int64[Tensor, "n t"],
    mask: Int64[Tensor, "n t"],
    prompt_tokens: int = 0,
    label_smoothing: float = 0.1,
    keys: list[KeyValue] | None = None,
    read: Int64[Tensor, "n t"] | None = None,
) -> Float[Tensor, ""]:
    """Language modelling: mean cross-entropy of each next token, nats (section 3.2).

    Padding is no target, nor are the first `prompt_tokens` word pieces after the first token (the captioner's
    fine-tuning prompt). Logits are computed at targets only. `read`, if given, is what the decoder reads in place of
    `ids` (`drop_words`).
    """
    targets = lm_targets(ids, mask, prompt_tokens)
    wanted = targets != IGNORED
    decoded = med.decode_states(states, ids if read is None else read, mask, keys)[:, :-1]
    logits = med.lm_logits(decoded[wanted]).float()
    return F.cross_entropy(logits, targets[wanted], label_smoothing=label_smoothing)


def lm_targets(ids: Int64[Tensor, "n t"], mask: Int64[Tensor, "n t"], prompt_tokens: int = 0) -> Int64[Tensor, "n t-1"]:
    """The token that follows each token; IGNORED for padding and within the prompt."""
    targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, IGNORED)
    targets[:, :prompt_tokens] = IGNORED
    return targets


def drop_words(
    ids: Int64[Tensor, "n t"], share: float, unknown_id: int, prompt_tokens: int = 0
) -> Int64[Tensor, "n t"]:
    """Replace a random share (0..1) of the tokens after the prompt by [UNK] (word dropout, Bowman et al. 2016).

    A decoder that cannot rely on the words before has to use the picture.
    """
    dropped = torch.rand(ids.shape, device=ids.device) < share
    dropped[:, : 1 + prompt_tokens] = False
    return ids.masked_fill(dropped, unknown_id)


def token_costs(
    med: Med,
    decoded: Float[Tensor, "n t d"],
    ids: Int64[Tensor, "n t"],
    mask: Int64[Tensor, "n t"],
    label_smoothing: float = 0.0,
) -> Float[Tensor, "n t-1"]:
    """Cross-entropy of each token after the first, nats; 0 at padding, where no logits are computed."""
    wanted = mask[:, 1:] == 1
    logits = med.lm_logits(decoded[:, :-1][wanted]).float()
    each = F.cross_entropy(logits, ids[:, 1:][wanted], reduction="none", label_smoothing=label_smoothing)
    return torch.zeros(wanted.shape, device=each.device).masked_scatter(wanted, each)


def answer_loss(
    vqa: Vqa,
    questions: Float[Tensor, "n t d"],
    question_mask: Int64[Tensor, "n t"],
    ids: Int64[Tensor, "m a"],
    mask: Int64[Tensor, "m a"],
    weights: Float[Tensor, " m"],
    question_of_row: Int64[Tensor, " m"],
    label_smoothing: float = 0.1,
) -> Float[Tensor, ""]:
    """LM loss of weighted answers (section 5.4): summed over tokens and a question's answers, mean over questions."""
    decoded = vqa.answer_states(questions, question_mask, ids, mask, question_of_row)
    costs = token_costs(vqa, decoded, ids, mask, label_smoothing)
    return (costs.sum(1) * weights).sum() / len(questions)
