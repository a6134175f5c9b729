"""BLIP's own ITM and ITC as judges like any other: another checkpoint's than the round's filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from blip_bootstrap.settings.section import Normalise
from blip_pipelines.captioners.options import Options, checked, digest_of, digest_of_weights, source_of
from blip_pipelines.judges.dual_encoder import distinct
from blip_pipelines.judges.interface import Pair, Scores, VariesWith
from blip_training.checkpoint.cast import cast_products
from blip_training.checkpoint.skip_init import undrawn
from blip_training.checkpoint.store import load_med
from blip_training.data.normalise import captions_as_seen, set_normalise
from blip_training.data.pixels import to_pixels
from blip_training.model.med import EMBED, MATCH, require

IMAGES_PER_LOOK = 8
"""Images that are encoded at a time, whatever the batch: so last digits do not depend on it."""

TEXTS_PER_MATCH = 64


class BlipOptions(Options):
    """What the kinds `blip_itm` and `blip_itc` take."""

    checkpoint: str
    normalise: Normalise = "auto"


class BlipItmJudge:
    """P(match) by the ITM head of a BLIP, 0..1, by this project's engine.

    Options: `checkpoint` (a folder, a .pth file or a hub name) and `normalise`, as in `caption.normalise`. Raises
    ConfigError.
    """

    names: tuple[str, ...] = ("itm",)
    varies_with: VariesWith = "device"
    needs = MATCH

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = checked(BlipOptions, options)
        self._source = source_of(self.options.checkpoint)

    @cached_property
    def digest(self) -> str:
        """Of the weights, of what is scored, and of how texts are changed before."""
        return digest_of("blip", self.names, digest_of_weights(self._source), self.options.normalise)

    def load(self, device: str, dtype: str) -> None:
        """Load the model. Raises CheckpointError where it cannot be read, or lacks what the score needs."""
        with undrawn():
            med, self._tokenizer = load_med(self._source, torch.device(device))
        require(med, self.needs, self._source)
        set_normalise(med, self.options.normalise)
        self._is_bfloat16 = dtype == "bfloat16"
        self._med = cast_products(med) if self._is_bfloat16 else med

    def score(self, pairs: Sequence[Pair]) -> list[Scores]:
        """One score of each pair; each picture is encoded once."""
        if not pairs:
            return []
        pictures, image_of_row = distinct(pairs)
        places, size = torch.tensor(image_of_row, device=self._med.device), self._med.config.vision.image_size
        device, found = self._med.device.type, []
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=self._is_bfloat16):
            looks = (pictures[at : at + IMAGES_PER_LOOK] for at in range(0, len(pictures), IMAGES_PER_LOOK))
            pixels = (torch.stack([to_pixels(one, size) for one in some]).to(self._med.device) for some in looks)
            states = torch.cat([self._med.encode_image(one) for one in pixels])
            for at in range(0, len(pairs), TEXTS_PER_MATCH):
                texts = [text for _, text in pairs[at : at + TEXTS_PER_MATCH]]
                found += self._scored(states, texts, places[at : at + TEXTS_PER_MATCH]).float().tolist()
        return [Scores({self.names[0]: score}) for score in found]

    def _scored(self, states: Tensor, texts: Sequence[str], image_of_row: Tensor) -> Tensor:
        own, places = torch.unique(image_of_row, return_inverse=True)
        logits = self._med.match(states[own], *self._read(texts), image_of_row=places)
        return logits.float().softmax(dim=1)[:, 1]

    def _read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        text = self._med.config.text
        ids, mask = self._tokenizer.encode(captions_as_seen(text, list(texts)), text.max_tokens)
        return ids.to(self._med.device), mask.to(self._med.device)


class BlipItcJudge(BlipItmJudge):
    """The cosine of a BLIP's ITC embeddings, -1..1; options as of `blip_itm`."""

    names = ("itc",)
    needs = EMBED

    def _scored(self, states: Tensor, texts: Sequence[str], image_of_row: Tensor) -> Tensor:
        ids, mask = self._read(texts)
        cosines: Tensor = self._med.cosines(states, ids, mask, image_of_row)
        return cosines
