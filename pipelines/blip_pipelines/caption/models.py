"""The models of a captioning actor, each loaded once, and what each of them sees of a picture."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip_bootstrap.config import CaptionConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.storage.run_folder import MANIFEST

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from blip_pipelines.caption.decoders import DecodeProcesses
    from blip_training.data.tokenizer import Tokenizer
    from blip_training.evaluate.clip_scorer import ClipScorer
    from blip_training.model.med import Med


Source = str | Path


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
    """The captioners and filters of one actor and its second scorer, where there is one.

    The first captioner and filter are the round's own; `config` names the others. A checkpoint that has several parts
    to play is loaded once. Raises CheckpointError where one cannot be read, or holds no decoder or no ITM head.
    """

    def __init__(self, captioner: Source, filter: Source, config: CaptionConfig, device: torch.device) -> None:
        from blip_training.model.med import DECODE, MATCH

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
        from blip_training.checkpoint.cast import cast_products
        from blip_training.checkpoint.skip_init import undrawn
        from blip_training.checkpoint.store import load_med
        from blip_training.data.normalise import set_normalise
        from blip_training.model.med import require

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
        from blip_training.evaluate.clip_scorer import ClipScorer

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


class Picture:
    """One image: its row, and its pixels for every model (`decoded` is false where the bytes are no picture)."""

    def __init__(
        self,
        row: dict[str, Any],
        sizes: frozenset[int],
        scorer: ClipScorer | None,
        processes: DecodeProcesses | None = None,
    ) -> None:
        self.key, self.web_text = row["key"], fold(row["caption"] or "")
        self.is_cut = row.get("cut_from_chars") is not None
        self.pixels: dict[int, Tensor] = {}
        self.scorer_pixels: Tensor | None = None
        encoded = row["jpg"] or b""
        # Where it cannot be decoded, the row stays, unscored: one damaged picture must not cost its batch.
        with suppress(InputError):
            if processes:
                self.pixels = processes.pixels(encoded, self.key)
            else:
                self._decode(encoded, sizes, scorer)

    def _decode(self, encoded: bytes, sizes: frozenset[int], scorer: ClipScorer | None) -> None:
        from blip_training.data.decode import decode_image
        from blip_training.data.pixels import to_pixels

        image = decode_image(encoded, self.key)
        self.pixels = {size: to_pixels(image, size) for size in sizes}
        self.scorer_pixels = scorer.to_pixels(image) if scorer else None

    @property
    def decoded(self) -> bool:
        """Whether the bytes were a picture."""
        return bool(self.pixels)


def captioner_sources(captioner: Source, config: CaptionConfig) -> list[Source]:
    """The round's captioner and those beside it."""
    return [captioner, *config.captioners]


def filter_sources(filter: Source, config: CaptionConfig) -> list[Source]:
    """The round's filter and those beside it."""
    return [filter, *config.filters]


def name_of_model(source: Source) -> str:
    """A hub name as it is, of a folder or file the last two parts of its path: `round-01/captioner`."""
    return "/".join(Path(source).parts[-2:])


def distinct_names(sources: Sequence[Source]) -> list[str]:
    """The models' names; where two would be alike, whole as they were given."""
    names = [name_of_model(source) for source in sources]
    return [name if names.count(name) == 1 else str(source) for name, source in zip(names, sources, strict=True)]


def digest_of_model(source: Source) -> str:
    """What a model folder's MANIFEST states as its content; the name itself where there is none."""
    try:
        return str(json.loads((Path(source) / MANIFEST).read_text(encoding="utf-8"))["content"])
    except (OSError, ValueError, KeyError):
        return str(source)


def with_absolute_models(config: CaptionConfig) -> CaptionConfig:
    """The same with folders as absolute paths, since actors may work elsewhere; hub names stay."""
    found = {name: tuple(map(absolute, getattr(config, name))) for name in ("captioners", "filters")}
    return config.model_copy(update=found | {"scorer": absolute(config.scorer) if config.scorer else None})


def absolute(source: Source) -> str:
    """A folder or file as absolute path; a hub name as it is."""
    return str(Path(source).absolute()) if Path(source).exists() else str(source)


def fold(text: str) -> str:
    """The text with every run of whitespace as one space, none at the ends."""
    return " ".join(text.split())
