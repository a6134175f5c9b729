"""Opens given models as the steps will, before a run begins, to report what is wrong with them or with prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from blip_bootstrap.errors import BlipBootstrapError
from blip_training.checkpoint.fresh import new_med
from blip_training.checkpoint.skip_init import undrawn
from blip_training.checkpoint.store import load_med
from blip_training.data.tokenizer import Tokenizer
from blip_training.decoding.generate import check_room
from blip_training.decoding.sampler import resolve_sampler
from blip_training.evaluate.clip_scorer import ClipScorer
from blip_training.model.med import DECODE, require

if TYPE_CHECKING:
    from blip_bootstrap.config import Config, SamplerConfig


class Opened:
    """The models of a configuration that were opened, each once; only what measures the prompts is kept of them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._can: dict[str, frozenset[str]] = {}
        self._captioners: dict[str, tuple[Tokenizer, int]] = {}
        self._tokenizer: Tokenizer | None = None
        self._started = False

    def open(self, source: str, needs: str) -> None:
        """Open a model. Raises CheckpointError or InputError if the step that loads it cannot use it for `needs`."""
        if needs == "tokenizer":
            self._tokenizer = Tokenizer.load(source)
        elif needs == "score":
            ClipScorer(source)
        elif needs == "start":
            self._start()
        else:
            self._open_model(source, needs)

    def _open_model(self, source: str, needs: str) -> None:
        with undrawn():
            med, tokenizer = load_med(source)
        require(med, DECODE if needs == "write" else needs, source)  # `write`: by prompts of its own
        if needs == DECODE:
            self._captioners[source] = tokenizer, med.config.text.max_positions

    def _start(self) -> None:
        """Put `vision.start` and `text.start` into one model, once."""
        if self._tokenizer and not self._started:
            self._started = True
            with undrawn():
                new_med(self.config.pretrain.model, self._tokenizer.num_tokens)

    def prompt_mistakes(self) -> list[str]:
        """A line for each prompt that leaves no room for a caption."""
        return list(dict.fromkeys(self._prompt_mistakes()))

    def _prompt_mistakes(self) -> Iterator[str]:
        config, text = self.config, self.config.pretrain.model.text
        for tokenizer, positions in self._captioners.values():
            yield from _no_room("caption", config.caption.prompt, config.caption.sampler, tokenizer, positions)
        if not self._tokenizer:
            return
        own = self._tokenizer, text.max_positions
        if not config.captioner.checkpoint and config.human:
            yield from _no_room("caption", config.caption.prompt, config.caption.sampler, *own)
            num_tokens = 1 + len(self._tokenizer.piece_ids(config.captioner.prompt))
            if num_tokens + 1 >= text.max_tokens:
                has = f"{config.captioner.prompt!r} has {num_tokens} tokens with [DEC]"
                yield f"captioner.prompt: {has}, and pretrain.model.text.max_tokens {text.max_tokens} cuts texts there"
        if config.held_out:
            yield from _no_room("evaluate", config.evaluate.prompt, config.evaluate.sampler, *own)


def _no_room(
    section: str, prompt: str, sampler: SamplerConfig, tokenizer: Tokenizer, max_positions: int
) -> Iterator[str]:
    try:
        check_room(tokenizer, prompt, resolve_sampler(sampler), max_positions)
    except BlipBootstrapError as error:
        yield f"{section}.{error}"
