"""The text stack: BERT with cross-attention, read bidirectionally (encoder) or causally (decoder) (section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from blip_training.model.attention import attend
from blip_training.model.cross_attention import NORM_EPS, CrossAttention, KeyValue
from blip_training.model.dropout import Dropout
from blip_training.model.onednn import Linear, product

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Bool, Float, Int64
    from torch import Tensor

    from blip_bootstrap.config import ModelConfig


Reading = Literal["bidirectional", "causal"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Shared(nn.ModuleDict, Generic[ModuleT]):
    """A module that both readings of the text stack share, or one module for each reading (section 3.1, Table 3)."""

    def __init__(self, make: Callable[[], ModuleT], shared: bool) -> None:
        super().__init__({"both": make()} if shared else {"bidirectional": make(), "causal": make()})
        self.is_shared = shared

    def of(self, reading: Reading) -> ModuleT:
        """The module that this reading uses."""
        return cast("ModuleT", self["both" if self.is_shared else reading])


class Embeddings(nn.Module):
    """Word and position embeddings, their norm and dropout."""

    def __init__(self, num_tokens: int, width: int, max_positions: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(num_tokens, width)
        self.positions = nn.Embedding(max_positions, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = Dropout(dropout)

    def forward(self, ids: Int64[Tensor, "n t"], start: int = 0) -> Float[Tensor, "n t d"]:
        """Embed tokens that stand at positions `start`, `start` + 1, ..."""
        x = self.words(ids) + self.positions.weight[start : start + ids.shape[1]]
        embedded: Tensor = self.dropout(self.norm(x))
        return embedded


class SelfAttention(nn.Module):
    """Attention over the text, with its output projection and norm: the part that the readings do not share."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.output = Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "n t d"], mask: Bool[Tensor, "n 1 1 t"] | None, first_alone: bool = False
    ) -> Float[Tensor, "n u d"]:
        """Attend within the text; `mask` is true for tokens that may be seen. None: itself and those before.

        With `first_alone` the first token alone attends, to all.
        """
        q, k, v = self.project(x)
        if first_alone:
            x, q = x[:, :1], q[:, :, :1]
        dropped = self.dropout.p if self.training else 0.0
        attended = attend(q, k, v, mask, dropped, is_causal=mask is None)
        return self.finish(x, attended)

    def project(self, x: Float[Tensor, "n t d"]) -> list[Float[Tensor, "n h t e"]]:
        """Queries, keys and values by head."""
        n, t, d = x.shape
        return list(self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0))

    def finish(self, x: Float[Tensor, "n t d"], attended: Float[Tensor, "n h t e"]) -> Float[Tensor, "n t d"]:
        """Project what was attended, add it to the input, and normalise."""
        out = self.output(attended.transpose(1, 2).reshape(x.shape))
        finished: Tensor = self.norm(x + self.dropout(out))
        return finished


class FeedForward(nn.Module):
    """Two linear layers with GELU between them, added to their input, then LayerNorm."""

    def __init__(self, width: int, intermediate: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = Linear(width, intermediate)
        self.fc2 = Linear(intermediate, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """Transform each token by itself."""
        out: Tensor = self.norm(x + self.dropout(self.fc2(F.gelu(self.fc1(x)))))
        return out


class TextLayer(nn.Module):
    """One transformer layer; `ModelConfig.share` says what its two readings share (Table 3)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        text, share = config.text, config.share
        width, heads, drop = text.width, text.heads, text.dropout
        self.self_attention = Shared(lambda: SelfAttention(width, heads, drop), shared=share in ("all", "all_but_ca"))
        self.cross_attention = Shared(
            lambda: CrossAttention(width, config.vision.width, heads, drop), shared=share in ("all", "all_but_sa")
        )
        self.feed_forward = Shared(lambda: FeedForward(width, text.intermediate, drop), shared=share != "none")

    def forward(
        self,
        x: Float[Tensor, "n t d"],
        reading: Reading,
        mask: Bool[Tensor, "n 1 1 t"] | None,
        image: KeyValue | Tensor | None,
        seen: Bool[Tensor, "b 1 1 p"] | None = None,
        first_alone: bool = False,
    ) -> Float[Tensor, "n u d"]:
        """Self-attention, cross-attention unless `image` is None, feed-forward; of all tokens, or the first alone."""
        x = self.self_attention.of(reading)(x, mask, first_alone)
        if image is not None:
            x = self.cross_attention.of(reading)(x, image, seen)
        out: Tensor = self.feed_forward.of(reading)(x)
        return out


class LmHead(nn.Module):
    """From last states to logits over the vocabulary, by the transposed word embeddings or by weights of its own."""

    def __init__(self, num_tokens: int, width: int, tied: bool = True) -> None:
        super().__init__()
        self.transform = Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.bias = nn.Parameter(torch.zeros(num_tokens))
        self.output = None if tied else nn.Linear(width, num_tokens, bias=False)

    def forward(self, x: Float[Tensor, "... d"], words: Float[Tensor, "v d"]) -> Float[Tensor, "... v"]:
        """Unnormalised log-probabilities of the next token."""
        weight = words if self.output is None else self.output.weight
        return product(self.norm(F.gelu(self.transform(x))), weight, self.bias)


class TextStack(nn.Module):
    """All layers, the embeddings and the LM head."""

    def __init__(self, config: ModelConfig, num_tokens: int) -> None:
        super().__init__()
        text = config.text
        self.embeddings = Shared(
            lambda: Embeddings(num_tokens, text.width, text.max_positions, text.dropout), shared=config.share != "none"
        )
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(text.depth))
        self.lm_head = LmHead(num_tokens, text.width, text.tied_output)
        self.checkpointing = False
        self.apply(_initialise)

    def each_layer(self) -> Iterator[TextLayer]:
        """The layers, from the embeddings up."""
        return cast("Iterator[TextLayer]", iter(self.layers))

    def image_keys_values(self, states: Float[Tensor, "b p v"], reading: Reading) -> list[KeyValue]:
        """Keys and values of image states for each layer's cross-attention in this reading."""
        return [layer.cross_attention.of(reading).keys_values(states) for layer in self.each_layer()]

    def forward(
        self,
        ids: Int64[Tensor, "n t"],
        mask: Int64[Tensor, "n t"],
        reading: Reading,
        states: Float[Tensor, "b p v"] | list[KeyValue] | None = None,
        image_of_row: Int64[Tensor, " n"] | None = None,
        states_mask: Int64[Tensor, "b p"] | None = None,
        first_alone: bool = False,
    ) -> Float[Tensor, "n u d"]:
        """Last states of the tokens; grounded in images if given `states`, or what `image_keys_values` made of them.

        Row r attends to image `image_of_row[r]`; by default to image r // (N / B). The causal reading needs no mask for
        padding, which stands after the text. `states_mask` is 0 at padding among `states`: a VQA decoder attends to
        questions in place of images. With `first_alone` the last layer computes the first token's state alone, which is
        all that a head on it needs: [N, 1, D].
        """
        x: Tensor = self.embeddings.of(reading)(ids)
        seen = mask[:, None, None, :].bool() if reading == "bidirectional" else None
        looked_at = None if states_mask is None else states_mask[:, None, None, :].bool()
        if looked_at is not None and image_of_row is not None:
            looked_at = looked_at[image_of_row]
        for number, layer in enumerate(self.each_layer()):
            image = states[number] if isinstance(states, list) else states
            is_last = number == len(self.layers) - 1
            x = self._run(layer, x, reading, seen, image, image_of_row, looked_at, first_alone and is_last)
        return x

    def _run(
        self,
        layer: TextLayer,
        x: Tensor,
        reading: Reading,
        seen: Tensor | None,
        states: Tensor | KeyValue | None,
        image_of_row: Tensor | None,
        looked_at: Tensor | None,
        first_alone: bool,
    ) -> Tensor:
        def run(x: Tensor, states: Tensor | KeyValue | None) -> Tensor:
            if isinstance(states, torch.Tensor):
                attention = layer.cross_attention.of(reading)
                num_queries = x.shape[0] * (1 if first_alone else x.shape[1]) // states.shape[0]
                if image_of_row is not None or not attention.absorbs(states, num_queries):
                    states = attention.keys_values(states)
            if isinstance(states, tuple) and image_of_row is not None:
                # Not by brackets: their backward pass writes element by element.
                states = states[0].index_select(0, image_of_row), states[1].index_select(0, image_of_row)
            out: Tensor = layer(x, reading, seen, states, looked_at, first_alone)
            return out

        if self.checkpointing and self.training:
            out: Tensor = checkpoint(run, x, states, use_reentrant=False)
            return out
        return run(x, states)


def _initialise(module: nn.Module) -> None:
    """Initialise as BERT does: weights from a normal distribution of deviation 0.02, biases 0, norms 1."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
