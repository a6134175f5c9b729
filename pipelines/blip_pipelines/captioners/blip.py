"""BLIP as a captioner like any other: this project's own engine, with a checkpoint and prompts of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from blip_bootstrap.config import SamplerConfig
from blip_bootstrap.errors import ConfigError, InputError
from blip_bootstrap.settings.mistakes import in_words
from blip_pipelines.captioners.interface import Answer, Ask, VariesWith
from blip_pipelines.captioners.options import Options, checked, digest_of, digest_of_weights, source_of
from blip_training.checkpoint.cast import cast_products
from blip_training.checkpoint.skip_init import undrawn
from blip_training.checkpoint.store import load_med
from blip_training.data.pixels import to_pixels
from blip_training.decoding.generate import check_room, generate
from blip_training.decoding.sampler import resolve_sampler
from blip_training.model.med import DECODE, require

IMAGES_PER_LOOK = 8
"""Images that are encoded at a time, whatever the batch: so last digits do not depend on it."""


class BlipOptions(Options):
    """What the kind `blip` takes: a checkpoint, and a sampler's settings as in `caption.sampler`."""

    checkpoint: str
    preset: str | None = None
    top_p: float | None = None
    top_k: int | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None


class BlipCaptioner:
    """A BLIP by this project's engine; a prompt is what its texts begin with, as `a picture of`.

    Options: `checkpoint` (a folder, a .pth file or a hub name), and `preset`, `top_p`, `top_k`, `temperature`,
    `repetition_penalty`, `min_tokens`, `max_tokens` as in `caption.sampler`; beams are not for captioners that answer
    ask by ask. Raises ConfigError.
    """

    varies_with: VariesWith = "device"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._given = dict(options)
        self.options = checked(BlipOptions, options)
        self._sampler(options)
        self._source = source_of(self.options.checkpoint)

    @cached_property
    def digest(self) -> str:
        """Of the weights and the sampler."""
        return digest_of("blip", digest_of_weights(self._source), vars(self._sampler(self._given)))

    def load(self, device: str, dtype: str) -> None:
        """Load the model. Raises CheckpointError where it cannot be read, or has no decoder."""
        with undrawn():
            med, self._tokenizer = load_med(self._source, torch.device(device))
        require(med, DECODE, self._source)
        self._is_bfloat16 = dtype == "bfloat16"
        self._med = cast_products(med) if self._is_bfloat16 else med

    def caption(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        """As many answers as asks; each picture is encoded once."""
        if not asks:
            return []
        found: dict[int, Answer] = {}
        device = self._med.device.type
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=self._is_bfloat16):
            pictures = {id(ask.picture): ask.picture for ask in asks}
            places = {one: at for at, one in enumerate(pictures)}
            states = torch.cat(list(self._encoded([*pictures.values()])))
            for same in _alike(asks):
                own = states[[places[id(asks[at].picture)] for at in same]]
                found |= zip(same, self._written([asks[at] for at in same], own), strict=True)
        return [found[at] for at in range(len(asks))]

    def _encoded(self, pictures: Sequence[Any]) -> Iterator[Tensor]:
        size = self._med.config.vision.image_size
        for at in range(0, len(pictures), IMAGES_PER_LOOK):
            pixels = torch.stack([to_pixels(one, size) for one in pictures[at : at + IMAGES_PER_LOOK]])
            yield self._med.encode_image(pixels.to(self._med.device))

    def _written(self, asks: Sequence[Ask], states: Tensor) -> list[Answer]:
        """The answers to asks with one prompt and sampler; none where the prompt leaves no room for a text."""
        prompt, sampler = asks[0].prompt, self._sampler({**self._given, **asks[0].sampler})
        try:
            check_room(self._tokenizer, prompt, sampler, self._med.config.text.max_positions)
        except InputError:
            return [Answer.failed("too_large") for _ in asks]
        written = generate(self._med, self._tokenizer, states, prompt, sampler, [[ask.seed] for ask in asks])
        num_prompt = len(self._tokenizer.piece_ids(prompt))
        return [
            Answer(
                one.text, one.num_tokens - num_prompt + ("cut_at_max_length" not in one.flags), one.logprob, one.flags
            )
            for (one,) in written
        ]

    def _sampler(self, options: Mapping[str, Any]) -> Any:
        given = {name: value for name, value in options.items() if name != "checkpoint" and value is not None}
        try:
            found = resolve_sampler(SamplerConfig.model_validate(given))
        except ValidationError as error:
            raise ConfigError(
                [f"{'.'.join(('options', *map(str, one['loc'])))}: {in_words(one)}" for one in error.errors()]
            ) from error
        if found.num_beams > 1:
            raise ConfigError(
                [f"options.preset: {given.get('preset')} has beams; use nucleus, blip-official or greedy"]
            )
        return found


def _alike(asks: Sequence[Ask]) -> list[list[int]]:
    """The places of asks that have the same prompt and sampler."""
    found: dict[str, list[int]] = {}
    for at, ask in enumerate(asks):
        found.setdefault(f"{sorted(ask.sampler.items())} {ask.prompt}", []).append(at)
    return [*found.values()]
