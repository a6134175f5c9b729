"""One model and one picture at a time: captions, answers, matching, and where the model looks for each word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from blip_bootstrap.config import Device, SamplerConfig
from blip_bootstrap.errors import CheckpointError, InputError
from blip_training.checkpoint.store import load_any
from blip_training.data.decode import decode_image, rgb_of
from blip_training.data.normalise import captions_as_seen, questions_as_seen
from blip_training.data.pixels import to_pixels
from blip_training.decoding.generate import Generated, generate
from blip_training.decoding.sampler import Sampler, resolve_sampler
from blip_training.evaluate.vqa_answers import Answer
from blip_training.evaluate.word_attention import WordMap, word_maps
from blip_training.model.med import DECODE, EMBED, MATCH, require
from blip_training.model.vqa import ANSWER, Vqa
from blip_training.runtime.workers import resolve_device

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


PROMPT = "a picture of"

TEXT_TOKENS, ANSWER_TOKENS = 35, 10

Picture = Image.Image | Path | str


@dataclass(frozen=True)
class Match:
    """How well a text fits a picture: the probability by ITM (0..1) and the similarity by ITC (-1..1, or None)."""

    text: str
    itm: float
    itc: float | None


class AskModel:
    """Any checkpoint, opened to be asked about single pictures.

    `source` is a folder of this package or of transformers, a .pth file or a hub name. `can` says which of decode
    (captions), match, embed and answer it has weights for; the others raise CheckpointError.
    """

    def __init__(self, source: str | Path, device: Device = "auto", image_size: int | None = None) -> None:
        self.source = source
        self.model, self.tokenizer = load_any(source, resolve_device(device), image_size)

    @property
    def can(self) -> list[str]:
        """What the model can be asked for: some of answer, decode, embed, match."""
        return sorted(self.model.capabilities)

    @cached_property
    def _reads_prompts(self) -> bool:
        return MATCH not in self.model.capabilities  # a pre-trained model never saw one

    @torch.inference_mode()
    def caption(
        self, picture: Picture, count: int = 1, sampler: SamplerConfig | None = None, seed: int = 0
    ) -> list[Generated]:
        """`count` captions: the best of three beams, or as `sampler` says; sampled ones depend on `seed` alone."""
        require(self.model, DECODE, self.source)
        if isinstance(self.model, Vqa):  # whose decoder looks at questions
            raise CheckpointError(f"{self.source} cannot caption: it answers questions")
        chosen = resolve_sampler(sampler or SamplerConfig(preset="beam", num_beams=max(3, count)))
        prompt = PROMPT if self._reads_prompts else ""
        seeds = [[seed + number for number in range(count)]]
        (captions,) = generate(self.model, self.tokenizer, self.states(picture), prompt, chosen, seeds)
        return captions

    @torch.inference_mode()
    def match(self, picture: Picture, texts: list[str]) -> list[Match]:
        """How well each text fits the picture, in the order of the texts."""
        require(self.model, MATCH, self.source)
        states = self.states(picture)
        seen = captions_as_seen(self.model.config.text, texts)
        ids, mask = (one.to(self.model.device) for one in self.tokenizer.encode(seen, self._most(TEXT_TOKENS)))
        itm = self.model.match(states, ids, mask).softmax(1)[:, 1].tolist()
        itc: list[float | None] = [None] * len(texts)
        if EMBED in self.model.capabilities:
            itc = self.model.cosines(states, ids, mask).tolist()
        return [Match(*found) for found in zip(texts, itm, itc, strict=True)]

    @torch.inference_mode()
    def answer(self, picture: Picture, question: str, num_beams: int = 3) -> Answer:
        """The model's answer, written by beam search."""
        require(self.model, ANSWER, self.source)
        assert isinstance(self.model, Vqa)
        ids, mask = self._ids(*questions_as_seen(self.model.config.text, [question]))
        read = self.model.read_questions(self.states(picture), ids, mask)
        sampler = Sampler(sample=False, num_beams=num_beams, min_tokens=1, max_tokens=self._most(ANSWER_TOKENS))
        ((best,),) = generate(self.model, self.tokenizer, read, "", sampler, [[0]])
        return Answer(best.text, best.logprob)

    def look(self, picture: Picture, text: str) -> list[WordMap]:
        """For each word of a caption or question where the model looks, by its cross-attention.

        A model that matches or answers reads the text as it does for that; a captioner as it would have written it.
        """
        reads = "bidirectional" if {MATCH, ANSWER} & self.model.capabilities else "causal"
        as_seen = questions_as_seen if isinstance(self.model, Vqa) else captions_as_seen
        ids, _ = self._ids(*as_seen(self.model.config.text, [text]))
        return word_maps(self.model, self.tokenizer, self.states(picture), ids, reads)  # type: ignore[arg-type]

    @torch.no_grad()
    def states(self, picture: Picture) -> Float[Tensor, "1 p v"]:
        """Image states of one picture, given as a file or as PIL has it."""
        image = rgb_of(picture) if isinstance(picture, Image.Image) else open_picture_file(picture)
        pixels = to_pixels(image, self.model.config.vision.image_size)
        return self.model.encode_image(pixels[None])

    def _ids(self, text: str) -> tuple[Tensor, Tensor]:
        ids, mask = self.tokenizer.encode([text], self._most(TEXT_TOKENS))
        return ids.to(self.model.device), mask.to(self.model.device)

    def _most(self, tokens: int) -> int:
        return min(tokens, self.model.config.text.max_positions)


def open_picture_file(file: Path | str) -> Image.Image:
    """A picture of a file as all steps decode it: RGB, upright, transparency on white. Raises InputError."""
    if re.match(r"[a-z][a-z0-9+.-]*://", str(file), re.IGNORECASE):
        raise InputError(f"{file}: a file is asked for, and this is a URL; download it, and give its path")
    try:
        encoded = Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); give another picture") from error
    return decode_image(encoded, str(file), "give another picture")
