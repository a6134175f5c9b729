"""The models of a captioning worker, each loaded once."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

import torch

from blip_bootstrap.config import CaptionConfig
from blip_bootstrap.errors import InputError
from blip_pipelines.scoring.sources import (
    Source,
    captioner_sources,
    digest_of_model,
    distinct_names,
    filter_sources,
    name_of_model,
)
from blip_training.checkpoint.cast import cast_products
from blip_training.checkpoint.skip_init import undrawn
from blip_training.checkpoint.store import load_med
from blip_training.data.normalise import set_normalise
from blip_training.data.tokenizer import Tokenizer
from blip_training.evaluate.clip_scorer import ClipScorer
from blip_training.model.med import DECODE, MATCH, Med, require


@dataclass(frozen=True, eq=False)
class Model:
    """One BLIP: its name in the tables, its weights and its tokenizer."""

    name: str
    med: Med
    tokenizer: Tokenizer

    @property
    def image_size(self) -> int:
        """The side of the pictures that it takes, px."""
        return self.med.config.vision.image_size


class Models:
    """The captioners and filters of one worker and its second scorer, where there is one.

    The first captioner (if it writes) and filter are the round's own; `config` names the others. A checkpoint that has
    several parts to play is loaded once. Raises CheckpointError where one cannot be read, or holds no decoder or no ITM
    head.
    """

    def __init__(self, captioner: Source | None, filter: Source, config: CaptionConfig, device: torch.device) -> None:
        self._device, self._dtype, self._compile = device, config.dtype, config.compile
        self._normalise = config.normalise
        self._loaded: dict[str, Model] = {}
        sources = captioner_sources(captioner, config), filter_sources(filter, config)
        self.captioners = [self._load(source, DECODE) for source in sources[0]]
        self.filters = [self._load(source, MATCH) for source in sources[1]]
        self.captioner_names = distinct_names(sources[0])
        self.scorer = self._load_scorer(config.scorer)

    @property
    def all(self) -> list[Model]:
        """Every BLIP, once."""
        return list(self._loaded.values())

    def _load(self, source: Source, capability: str) -> Model:
        digest = digest_of_model(source)
        if digest not in self._loaded:
            with undrawn():
                med, tokenizer = load_med(source, self._device)
            set_normalise(med, self._normalise)
            med = cast_products(med) if self._dtype == "bfloat16" else med
            if self._compile:
                compile_vision(med)
            self._loaded[digest] = Model(name_of_model(source), med, tokenizer)
        require(self._loaded[digest].med, capability, source)
        return self._loaded[digest]

    def _load_scorer(self, source: str | None) -> ClipScorer | None:
        return ClipScorer(source, self._device) if source else None


def compile_vision(med: Med) -> None:
    """Compile the image encoder's blocks when they first run; all share one compilation for each kind of batch.

    Raises InputError where there is no C++ compiler, which torch.compile needs on any device.
    """
    compilers = (os.environ.get("CXX") or "c++", "g++", "clang++")
    if not any(map(shutil.which, compilers)):
        raise InputError(f"caption.compile: true needs a C++ compiler ({', '.join(compilers)}), and none is there")
    for block in med.vision.blocks:
        block.compile()
