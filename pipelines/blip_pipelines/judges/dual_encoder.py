"""Any dual encoder of transformers as a judge: how near a text's embedding is to its picture's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from blip_bootstrap.settings.section import NonNegative
from blip_pipelines.captioners.options import Options, checked, digest_of, digest_of_weights, source_of
from blip_pipelines.judges.interface import Pair, Scores, VariesWith
from blip_training.evaluate.clip_scorer import ClipScorer, Output

PICTURES_AT_ONCE = {"cpu": 8, "cuda": 128}
"""Pictures that are embedded together where `batch_size` is 0."""


class DualEncoderOptions(Options):
    """What the kind `dual_encoder` takes."""

    checkpoint: str
    score: Output = "cosine"
    batch_size: NonNegative = 0


class DualEncoderJudge:
    """The score of a CLIP, MetaCLIP 2, SigLIP or SigLIP 2, by the checkpoint's own processor and tokenizer.

    Options: `checkpoint` (a folder or hub name), `score` (cosine, -1..1; logit: times the model's scale and with its
    bias, as its forward gives it; probability, 0..1: the sigmoid of that, for SigLIPs), `batch_size`, pictures at a
    time. Each picture is embedded once, whatever the number of its texts. Raises ConfigError.
    """

    varies_with: VariesWith = "device"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = checked(DualEncoderOptions, options)
        self._source = source_of(self.options.checkpoint)
        self.names: tuple[str, ...] = (self.options.score,)

    @cached_property
    def digest(self) -> str:
        """Of the weights, and of which score it is."""
        return digest_of("dual_encoder", digest_of_weights(self._source), self.options.score)

    def load(self, device: str, dtype: str) -> None:
        """Load the model. Raises CheckpointError where it is no dual encoder, or lacks something."""
        self._scorer = ClipScorer(self._source, device, self.options.score)
        self._is_bfloat16 = dtype == "bfloat16"

    def score(self, pairs: Sequence[Pair]) -> list[Scores]:
        """One score of each pair."""
        if not pairs:
            return []
        pictures, image_of_row = distinct(pairs)
        device = self._scorer.device
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=self._is_bfloat16):
            images = torch.cat(list(self._embedded(pictures)))
            places = torch.tensor(image_of_row, device=device)
            scores = self._scorer.compare(images, [text for _, text in pairs], places)
        return [Scores({self.options.score: score}) for score in scores]

    def _embedded(self, pictures: Sequence[Image]) -> Iterator[Tensor]:
        size = self.options.batch_size or PICTURES_AT_ONCE[self._scorer.device.type]
        for at in range(0, len(pictures), size):
            yield self._scorer.embed_images([self._scorer.to_pixels(one) for one in pictures[at : at + size]])


def distinct(pairs: Sequence[Pair]) -> tuple[list[Image], list[int]]:
    """The pictures of pairs, each once, and for each pair the place of its picture."""
    pictures = {id(picture): picture for picture, _ in pairs}
    places = {one: at for at, one in enumerate(pictures)}
    return [*pictures.values()], [places[id(picture)] for picture, _ in pairs]
