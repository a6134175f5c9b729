"""What a captioner is: a small class that loads a model, or names a server, and answers asks for texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from PIL.Image import Image

VariesWith = Literal["nothing", "batch", "device", "server"]
"""What a captioner's texts may change with beside picture, prompt, sampler and seed."""

VARIES_WITH: tuple[VariesWith, ...] = ("nothing", "device", "batch", "server")
"""From the strongest promise to the weakest; each includes the ones before it. device: another kind of device has other
last digits; batch: so have other asks that are answered together; server: what it does nobody here sees."""


@dataclass(frozen=True)
class Ask:
    """One text that is wanted about one picture."""

    picture: Image
    """RGB, as it is stored."""
    jpg: bytes
    """The stored picture's bytes (JPEG), for who sends it elsewhere."""
    prompt: str
    """Filled in: the alt text stands where the template has `{alt_text}`."""
    seed: int
    """63 bits, of the run's seed, the picture's uid, the writer, the candidate and the prompt's name alone."""
    sampler: Mapping[str, Any] = field(default_factory=dict)
    """The prompt's own sampler settings; what is not in it is as the captioner's options say."""


@dataclass(frozen=True)
class Answer:
    """The text that was written for one ask, or why there is none."""

    text: str
    """As the model gave it. Cleaning is done by who asked, and recorded."""
    num_tokens: int | None = None
    """Of the text, by the model's own tokenizer; None where it is not known."""
    logprob: float | None = None
    """Log-likelihood of the text's tokens, summed, nats; None where it is not known."""
    flags: tuple[str, ...] = ()
    """Of `closed_lists.FLAGS`: what may be wrong with the text, such as cut_at_max_length."""
    error: str | None = None
    """Of `closed_lists.NO_ANSWERS`: why there is no text (which is then empty). Such a row can be asked again."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """What it took: any of `requests`, `prompt_tokens`, `completion_tokens`, `seconds`."""

    @classmethod
    def failed(cls, error: str, cost: Mapping[str, float] | None = None) -> Answer:
        """The answer that is none, for a reason of `closed_lists.NO_ANSWERS`."""
        return cls("", error=error, cost=cost or {})


@runtime_checkable
class Captioner(Protocol):
    """Writes texts about pictures.

    A worker makes one of the writer's options, loads it once, and asks it for batch after batch from one thread. What
    it raises ends the run, but for torch.OutOfMemoryError: fewer asks then come at a time.
    """

    varies_with: VariesWith
    """The promise: what its texts may change with. It is kept beside them, and `conformance` holds it to it."""

    @property
    def digest(self) -> str:
        """What decides its texts, as a text: weights and options, without those that decide speed alone.

        Known before `load`, and quickly: it is part of the recipe, and asked for by commands that caption nothing.
        """

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Check the options, and no more. Raises ConfigError, one line for each mistake, `option: what is wrong`."""

    def load(self, device: str, dtype: str) -> None:
        """Load the weights, or open connections. `device` is cpu or cuda, `dtype` float32 or bfloat16.

        Raises CheckpointError or InputError where they cannot be used.
        """

    def caption(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        """As many answers as asks, in their order."""
