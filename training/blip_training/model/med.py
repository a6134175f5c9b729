"""MED, the multimodal mixture of encoder-decoder (section 3.1): one ViT, one text stack, three ways to use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from blip_bootstrap.errors import CheckpointError
from blip_training.model.text_stack import TextStack
from blip_training.model.vision import VisionEncoder

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor

    from blip_bootstrap.config import ModelConfig
    from blip_training.model.cross_attention import KeyValue


EMBED, MATCH, DECODE = "embed", "match", "decode"

CAPABILITIES = frozenset({EMBED, MATCH, DECODE})

TEMPERATURE_RANGE = (0.001, 0.5)

ITC_SCALE = 10.0


class Med(nn.Module):
    """Vision encoder, text stack and the heads of ITC, ITM and LM.

    `num_tokens` counts the vocabulary with [DEC] and [ENC], which are its two last ids. `capabilities` says which of
    embed, match and decode have trained weights behind them: a captioner's checkpoint has decode alone.
    """

    def __init__(self, config: ModelConfig, num_tokens: int) -> None:
        super().__init__()
        self.config, self.num_tokens = config, num_tokens
        self.dec_id, self.enc_id = num_tokens - 2, num_tokens - 1
        self.capabilities: frozenset[str] = CAPABILITIES
        self.vision = VisionEncoder(config.vision)
        self.text = TextStack(config, num_tokens)
        self.vision_projection = nn.Linear(config.vision.width, config.embed_dim)
        self.text_projection = nn.Linear(config.text.width, config.embed_dim)
        self.itm_head = nn.Linear(config.text.width, 2)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        if config.itc_in_itm:
            self.itc_scale = nn.Parameter(torch.tensor(ITC_SCALE))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.vision.class_token.device

    def encode_image(self, pixels: Tensor) -> Float[Tensor, "b p v"]:
        """Image states; the first is of the whole image.

        `pixels` are uint8 [B, 3, H, W] at config.vision.image_size, RGB (float: taken as normalised), or what
        `vision.still_grid` made of them, [B, P, C].
        """
        return self._encode(pixels, first_alone=False)

    def _encode(self, pixels: Tensor, first_alone: bool) -> Float[Tensor, "b p v"]:
        pixels = pixels.to(self.device, non_blocking=True)
        grid = pixels if pixels.dim() == 3 else self.vision.stem(pixels)
        return self.vision.from_grid(grid, first_alone)

    def embed_pixels(self, pixels: Tensor) -> Float[Tensor, "b e"]:
        """ITC embeddings of images, given as to `encode_image`, whose states nothing else needs."""
        return self.embed_image(self._encode(pixels, first_alone=self.config.itc_pooling == "first"))

    def embed_image(self, states: Float[Tensor, "b p v"]) -> Float[Tensor, "b e"]:
        """ITC embeddings of images, normalised to length 1."""
        return F.normalize(self.project_image(states), dim=-1)

    def project_image(self, states: Float[Tensor, "b p v"]) -> Float[Tensor, "b e"]:
        """ITC embeddings of images before they get length 1: those of a video's frames are averaged so."""
        pooled = states[:, 0] if self.config.itc_pooling == "first" else states[:, 1:].mean(1)
        return _in_float32(self.vision_projection, pooled)

    def embed_text(
        self, ids: Int64[Tensor, "n t"], mask: Int64[Tensor, "n t"], pooled: Float[Tensor, "n d"] | None = None
    ) -> Float[Tensor, "n e"]:
        """ITC embeddings of texts by the unimodal encoder, normalised to length 1. The first token must be [CLS].

        `pooled` is what `pool_text` gives for the texts, if it is known already.
        """
        pooled = self.pool_text(ids, mask) if pooled is None else pooled
        return F.normalize(_in_float32(self.text_projection, pooled), dim=-1)

    def pool_text(self, ids: Int64[Tensor, "n t"], mask: Int64[Tensor, "n t"]) -> Float[Tensor, "n d"]:
        """The unimodal text state that the ITC head takes: the first token's, or with `itc_pooling: mean` the mean."""
        first = self.config.itc_pooling == "first"
        states = self.text(ids, mask, "bidirectional", first_alone=first)
        return states[:, 0] if first else _mean_token(states, mask)

    def match(
        self,
        states: Float[Tensor, "b p v"],
        ids: Int64[Tensor, "n t"],
        mask: Int64[Tensor, "n t"],
        image_of_row: Int64[Tensor, " n"] | None = None,
        keys: list[KeyValue] | None = None,
        cosines: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n 2"]:
        """ITM logits; column 1 says that the text matches the image. [ENC] replaces the first token (section 3.1).

        Text r is matched with image `image_of_row[r]`; by default N is B times K and each image has K texts in
        succession. An image's keys and values are computed once for all its texts, or given as `keys`. With
        `itc_in_itm` the pairs' ITC similarities are added to the logit: given as `cosines`, or computed here by one
        more pass over the texts.
        """
        enc = with_first(ids, self.enc_id)
        last = self.text(enc, mask, "bidirectional", keys or states, image_of_row, first_alone=True)
        logits = _in_float32(self.itm_head, last[:, 0])
        if not self.config.itc_in_itm:
            return logits
        if cosines is None:
            cosines = self.cosines(states, ids, mask, image_of_row)
        term = cosines * self.itc_scale
        return logits + torch.stack([torch.zeros_like(term), term], dim=1)

    def cosines(
        self,
        states: Float[Tensor, "b p v"],
        ids: Int64[Tensor, "n t"],
        mask: Int64[Tensor, "n t"],
        image_of_row: Int64[Tensor, " n"] | None = None,
    ) -> Float[Tensor, " n"]:
        """ITC similarity (-1..1) of each text with its image, as `match` pairs them; `ids` must start with [CLS]."""
        images = self.embed_image(states)
        if image_of_row is None:
            images = images.repeat_interleave(ids.shape[0] // states.shape[0], dim=0)
        else:
            images = images[image_of_row]
        return (images * self.embed_text(ids, mask)).sum(-1)

    def shared_keys(self, states: Float[Tensor, "b p v"]) -> list[KeyValue] | None:
        """The images' keys and values for both `match` and `decode_states`; None if the readings do not share them."""
        shared = all(layer.cross_attention.is_shared for layer in self.text.each_layer())
        return self.text.image_keys_values(states, "causal") if shared else None

    def decode_states(
        self,
        states: Float[Tensor, "b p v"],
        ids: Int64[Tensor, "n t"],
        mask: Int64[Tensor, "n t"],
        keys: list[KeyValue] | None = None,
    ) -> Float[Tensor, "n t d"]:
        """Last states of the causal reading, before the LM head. [DEC] replaces the first token (section 3.1)."""
        decoded: Tensor = self.text(with_first(ids, self.dec_id), mask, "causal", keys or states)
        return decoded

    def lm_logits(self, decoded: Float[Tensor, "... d"]) -> Float[Tensor, "... v"]:
        """Logits over the vocabulary, from last states."""
        logits: Tensor = self.text.lm_head(decoded, self.text.embeddings.of("causal").words.weight)
        return logits

    def decode(
        self, states: Float[Tensor, "b p v"], ids: Int64[Tensor, "n t"], mask: Int64[Tensor, "n t"]
    ) -> Float[Tensor, "n t w"]:
        """LM logits of each next token; an image's texts stand in succession."""
        return self.lm_logits(self.decode_states(states, ids, mask))

    @torch.no_grad()
    def clamp_temperature(self, lowest: float = TEMPERATURE_RANGE[0]) -> None:
        """Clamp the learnable temperature to `lowest`..0.5; to be called after every optimizer step."""
        self.temperature.clamp_(lowest, TEMPERATURE_RANGE[1])

    def set_activation_checkpointing(self, on: bool) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them, which saves memory."""
        self.vision.checkpointing = self.text.checkpointing = on


def require(med: Med, capability: str, source: object = "the model") -> None:
    """Raise CheckpointError unless `med` has trained weights for `capability`: embed, match, decode or answer."""
    if capability not in med.capabilities:
        have = ", ".join(sorted(med.capabilities)) or "nothing"
        raise CheckpointError(f"{source} cannot {capability}: its checkpoint holds weights for {have} only")


def with_first(ids: Int64[Tensor, "n t"], token: int) -> Int64[Tensor, "n t"]:
    """Token ids with the first token of each text replaced: [ENC] for ITM, [DEC] for the decoder (section 3.1)."""
    first = ids.new_full((ids.shape[0], 1), token)
    return torch.cat([first, ids[:, 1:]], dim=1)


def _in_float32(head: nn.Linear, states: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
    """What a head of ITC or ITM makes of one state for each row, in float32 also under autocast.

    bfloat16 has three digits: of 256 pairs of a small model 91 scores were different ones. What the layers below round
    stays (.01 of an ITM score at most there); LM's head, which is a thousand times as large, is as autocast has it.
    """
    with torch.autocast(states.device.type, enabled=False):
        return F.linear(states.float(), head.weight.float(), head.bias.float())


def _mean_token(states: Tensor, mask: Tensor) -> Tensor:
    """The mean over a text's own tokens, as sentence encoders such as MiniLM pool: [N, T, D] to [N, D]."""
    own = mask[..., None].to(states.dtype)
    return (states * own).sum(1) / own.sum(1)
