"""Where a model looks for each word of a text: its cross-attention over the picture, as maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from blip_training.model.med import with_first

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor, nn

    from blip_training.data.tokenizer import Tokenizer
    from blip_training.model.med import Med
    from blip_training.model.text_stack import Reading


@dataclass(frozen=True)
class WordMap:
    """A word, and how much of its attention goes to each part of the picture, [H, W], which sums to 1."""

    word: str
    map: Float[Tensor, "h w"]


@torch.no_grad()
def word_maps(
    med: Med,
    tokenizer: Tokenizer,
    states: Float[Tensor, "1 p v"],
    ids: Int64[Tensor, "1 t"],
    reading: Reading = "bidirectional",
    layers: Sequence[int] | None = None,
) -> list[WordMap]:
    """A map for each word of a text, the mean over heads and over `layers` (None: all) of its cross-attention.

    `states` are one picture's; `ids` begin with [CLS], for which [ENC] (bidirectional, as ITM and questions are read)
    or [DEC] (causal, as captions are written) is put, and end with [SEP]. What goes to the state of the whole picture
    is left out. A word of several pieces has their mean.
    """
    first = tokenizer.enc_id if reading == "bidirectional" else tokenizer.dec_id
    chosen = range(med.config.text.depth) if layers is None else layers
    modules = [med.text.layers[number].cross_attention.of(reading) for number in chosen]  # type: ignore[operator, union-attr]
    with _watched(modules) as seen:
        keys = med.text.image_keys_values(states, reading)
        med.text(with_first(ids, first), torch.ones_like(ids), reading, keys)
    mean = torch.stack(seen).mean(0)[0, :, 1:]  # [T, P - 1]
    side = math.isqrt(mean.shape[1])
    maps = (mean / mean.sum(1, keepdim=True)).view(-1, side, side).cpu()
    return [
        WordMap(word, maps[places.start : places.stop].mean(0)) for word, places in _words(tokenizer, ids[0].tolist())
    ]


@contextmanager
def _watched(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """The attention weights [N, T, P] of these cross-attentions while the body runs, in the order of their calls."""
    seen: list[Tensor] = []

    def watch(module: Any, given: tuple[Any, ...], _: object) -> None:
        x, (keys, _values) = given[0], given[1]
        queries = module.query(x).view(*x.shape[:2], module.heads, -1).transpose(1, 2)
        similar = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        seen.append(similar.float().softmax(-1).mean(1))

    hooks = [module.register_forward_hook(watch) for module in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _words(tokenizer: Tokenizer, ids: Sequence[int]) -> list[tuple[str, range]]:
    """The words of a text and the places of their pieces among its tokens, without those at both ends."""
    words: list[tuple[str, range]] = []
    for place in range(1, len(ids) - 1):
        piece = tokenizer.vocabulary[ids[place]]
        if piece.startswith("##") and words:
            word, places = words[-1]
            words[-1] = word + piece[2:], range(places.start, place + 1)
        else:
            words.append((piece, range(place, place + 1)))
    return words
