"""What one evaluation works with: its settings as they are for the benchmark, and the parts that it has done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from blip_bootstrap.config import BenchmarkConfig, SamplerConfig, VqaConfig
from blip_bootstrap.errors import CheckpointError
from blip_bootstrap.storage.files import staged_file, write_whole
from blip_training.benchmarks.frames import read_frames, read_pictures
from blip_training.benchmarks.names import Benchmark
from blip_training.data.normalise import captions_as_seen

if TYPE_CHECKING:
    from jaxtyping import Float, Int64, UInt8
    from torch import Tensor

    from blip_bootstrap.config import TextConfig
    from blip_training.data.tokenizer import Tokenizer


BLOCK = 256
"""Pictures that are kept together, or videos with as many frames: a killed evaluation does the last block again."""

QUESTION_FRAMES, RETRIEVAL_FRAMES = 16, 8
"""Frames of a video in the paper (section 5.6)."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Work:
    """The settings of an evaluation and the folder of its finished parts, None: they are not kept."""

    benchmark: Benchmark
    config: BenchmarkConfig
    vqa: VqaConfig
    folder: Path | None = None

    @property
    def sampler(self) -> SamplerConfig:
        """How captions are written on this benchmark."""
        penalty = self.benchmark.repetition_penalty
        return self.config.sampler or SamplerConfig(preset="beam", repetition_penalty=penalty)

    @property
    def rerank_top_k(self) -> int:
        """How many of the best by ITC are ranked anew by ITM; 0: none."""
        given = self.config.rerank_top_k
        return self.benchmark.rerank_top_k if given is None else given

    @property
    def num_frames(self) -> int:
        """Frames of a video, 1 for a picture."""
        if not self.benchmark.is_video:
            return 1
        return self.config.frames or (QUESTION_FRAMES if "vqa" in self.benchmark.tasks else RETRIEVAL_FRAMES)

    def pixels(self, files: Sequence[Path], image_size: int) -> UInt8[Tensor, "f 3 h w"]:
        """The pictures as pixels; of videos all frames in succession."""
        if not self.benchmark.is_video:
            return read_pictures(files, image_size, self.config.max_pixels)
        of_each = [read_frames(file, self.num_frames, image_size, self.config.max_pixels) for file in files]
        return torch.cat(of_each)

    @property
    def block(self) -> int:
        """Pictures or videos that are kept together."""
        return max(1, BLOCK // self.num_frames)

    @property
    def items_at_once(self) -> int:
        """Pictures, or videos with as many frames together, that are encoded together."""
        return max(1, self.config.batch_size // self.num_frames)

    def encode_texts(
        self, config: TextConfig, tokenizer: Tokenizer, texts: Sequence[str], device: torch.device
    ) -> tuple[Int64[Tensor, "n t"], Int64[Tensor, "n t"]]:
        """Token ids and mask of texts as the model reads them, cut as the released code cuts this benchmark's."""
        seen = captions_as_seen(config, texts, self.benchmark.max_words)
        most = config.max_positions
        if self.benchmark.tasks != ("nlvr",):  # whose sentences are not cut
            most = min(most, self.config.text_tokens)
        ids, mask = tokenizer.encode(seen, most)
        return ids.to(device), mask.to(device)

    def tensors(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of the part `name`, on the CPU: those that are kept, else what `make` gives, which is kept."""
        if self.folder is None:
            return make()
        file = self.folder / f"{name}.safetensors"
        if file.is_file():
            try:
                return dict(load_file(file))
            except (OSError, SafetensorError):  # damaged: the part is made anew
                file.unlink()
        made = {key: tensor.cpu().contiguous() for key, tensor in make().items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        with staged_file(file) as staged:
            save_file(made, staged)
        return made

    def values(self, name: str, count: int, make: Callable[[], list[Any]]) -> list[Any]:
        """The `count` JSON values of the part `name`: those that are kept, else what `make` gives, which is kept."""
        file = self.folder / f"{name}.json" if self.folder else None
        if file and file.is_file():
            with suppress(ValueError):  # damaged: the part is made anew
                kept = json.loads(file.read_text(encoding="utf-8"))
                if isinstance(kept, list) and len(kept) == count:
                    return kept
        made = make()
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(made, ensure_ascii=False))
        return made


def blocks_of(items: Sequence[Item], size: int) -> Iterator[tuple[int, Sequence[Item]]]:
    """Items in pieces of `size`, each with the place of its first item."""
    return ((start, items[start : start + size]) for start in range(0, len(items), size))


def check_finite(numbers: Tensor | Sequence[float], what: str) -> None:
    """Raise CheckpointError where a model gave NaN or infinities, of which figures would be made all the same."""
    found = torch.as_tensor(numbers)
    if lost := int((~found.isfinite()).sum()):
        raise CheckpointError(
            f"{lost:,} of {found.numel():,} {what} are NaN or infinite: the model overflows, or is damaged; give "
            "another checkpoint, or set benchmark.dtype: float32 where it is not"
        )


def as_videos(states: Float[Tensor, "f p v"], num_frames: int) -> Float[Tensor, "b q v"]:
    """States of frames as those of videos, the frames' patches one after another (section 5.6)."""
    return states.reshape(states.shape[0] // num_frames, -1, states.shape[2])
