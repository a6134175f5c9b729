"""Re-ranking of retrieval by the decoder: how much likelier a picture makes a text than similar pictures do.

For a text, log p(text | picture) ranks the pictures; for a picture, log p(text | picture) - log p(text) ranks the texts
(Lin et al. 2024, arXiv 2306.01879). BLIP's own re-ranking is by ITM (section 4.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from blip_training.data.held_out import HeldOut, chunks
from blip_training.evaluate.retrieval import first_of
from blip_training.objective.losses import token_costs
from blip_training.objective.micro_batches import encode_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, Int64
    from torch import Tensor

    from blip_training.data.tokenizer import Tokenizer
    from blip_training.model.cross_attention import KeyValue
    from blip_training.model.med import Med


class Likelihoods:
    """Log-likelihoods of `texts` by one decoder; each begins with `prompt`, whose tokens do not count."""

    def __init__(self, med: Med, tokenizer: Tokenizer, texts: Sequence[str], prompt: str, batch_size: int) -> None:
        self.med, self.batch_size = med, batch_size
        self._ids, self._mask = encode_texts(med, tokenizer, texts, prompt)
        self._lengths = self._mask.sum(1).cpu()
        self._num_prompt = len(tokenizer.piece_ids(prompt))

    def of_pairs(self, data: HeldOut, wanted: Bool[Tensor, "n t"]) -> Float[Tensor, "n t"]:
        """Log p(text | picture) of the wanted pairs, nats, with [SEP]; 0 for other pairs."""
        found, has_wanted = torch.zeros(wanted.shape), wanted.any(1)
        for rows, pixels in data.pixels(self.med.config.vision.image_size, self.batch_size):
            some = has_wanted[rows]
            if not some.any():
                continue
            states = self.med.encode_image(pixels[some])
            for row, own in zip(torch.tensor(rows)[some].tolist(), torch.split(states, 1), strict=True):
                texts = wanted[row].nonzero()[:, 0]
                texts = texts[self._lengths[texts].argsort()]
                found[row, texts] = self._of_one(own, texts.tolist())
        return found

    def _of_one(self, states: Float[Tensor, "1 p v"], texts: Sequence[int]) -> Float[Tensor, " r"]:
        keys = self.med.text.image_keys_values(states, "causal")
        found = []
        for rows in chunks(texts, self.batch_size):
            longest = int(self._lengths[rows].max())
            ids, mask = self._ids[rows, :longest], self._mask[rows, :longest]
            found.append(log_likelihoods(self.med, states, ids, mask, self._num_prompt, keys).cpu())
        return torch.cat(found)


def log_likelihoods(
    med: Med,
    states: Float[Tensor, "b p v"],
    ids: Int64[Tensor, "n t"],
    mask: Int64[Tensor, "n t"],
    num_prompt: int,
    keys: list[KeyValue] | None = None,
) -> Float[Tensor, " n"]:
    """Log p(text | picture), nats, summed over the tokens after the first and the `num_prompt` of the prompt.

    [SEP] counts where it stands in `ids`. An image's texts stand in succession; `keys` are its keys and values, if
    they are known.
    """
    costs = token_costs(med, med.decode_states(states, ids, mask, keys), ids, mask)
    return -costs[:, num_prompt:].sum(1)


def text_gains(
    likelihoods: Likelihoods,
    data: HeldOut,
    wanted: Bool[Tensor, "n t"],
    references: HeldOut,
    similarities: Float[Tensor, "r t"],
    num_references: int,
) -> Float[Tensor, "n t"]:
    """Log p(text | picture) - log p(text) of the wanted pairs, nats; 0 for other pairs.

    Log p(text) is estimated as the mean of log p(text | reference) over the `num_references` reference pictures that
    are most similar to the text by `similarities`.
    """
    near = first_of(similarities.T, num_references).T & wanted.any(0)
    expected = likelihoods.of_pairs(references, near).sum(0) / near.sum(0).clamp(min=1)
    return (likelihoods.of_pairs(data, wanted) - expected) * wanted
