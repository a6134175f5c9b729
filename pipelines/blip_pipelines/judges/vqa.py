"""The yes or no of a model of transformers that answers questions about pictures, as a score (VQAScore)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from blip_bootstrap.errors import CheckpointError
from blip_bootstrap.settings.section import Count
from blip_pipelines.captioners.interface import Ask
from blip_pipelines.captioners.options import Options, checked, digest_of, digest_of_weights, source_of
from blip_pipelines.captioners.transformers import TransformersCaptioner
from blip_pipelines.judges.interface import Pair, Scores, VariesWith
from blip_pipelines.judges.yes_or_no import QUESTION, Question

MARKS = "▁Ġ "
"""What tokenizers write for a blank before a word."""


class VqaOptions(Options):
    """What the kind `vqa_score` takes."""

    checkpoint: str
    revision: str | None = None
    question: Question = QUESTION
    system: str | None = None
    chat_template: bool = True
    batch_size: Count = 16
    one_by_one: bool = False


class VqaJudge:
    """P(yes) / (P(yes) + P(no)) of a model's first token, asked whether its picture shows a text, 0..1.

    Options: `checkpoint` (a folder or hub name of an `AutoModelForImageTextToText`) and `revision`; `question`, in
    which {text} stands for the text; `system`, a text before it; `chat_template`, false where the question is to be
    given as it is; `batch_size`, pairs at a time; `one_by_one`, each pair alone, so that not even a last digit depends
    on the others. All spellings of yes and of no among the model's tokens count. Raises ConfigError.
    Lin et al. 2024 (arXiv 2404.01291), section 3; there P(yes) alone is the score.
    """

    names: tuple[str, ...] = ("yes",)

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = checked(VqaOptions, options)
        self._source = source_of(self.options.checkpoint)

    @property
    def varies_with(self) -> VariesWith:
        """Rows are padded to a batch's longest question, which changes last digits, unless each is alone."""
        return "device" if self.options.one_by_one else "batch"

    @cached_property
    def digest(self) -> str:
        """Of the weights, and of all options but those of speed."""
        own = self.options.model_dump(mode="json", exclude={"checkpoint", "revision", "batch_size"})
        return digest_of("vqa_score", digest_of_weights(self._source, self.options.revision), own)

    def load(self, device: str, dtype: str) -> None:
        """Load model and processor. Raises CheckpointError where they cannot be used, or know no yes and no."""
        names = ("revision", "system", "chat_template")
        shared = {name: getattr(self.options, name) for name in names}
        self._reader = FirstTokens({"checkpoint": self._source, "max_tokens": 1, **shared})
        self._reader.load(device, dtype)
        self._yes, self._no = (self._reader.spellings(word) for word in ("yes", "no"))
        if lacking := [word for word, ids in (("yes", self._yes), ("no", self._no)) if not ids]:
            raise CheckpointError(f"{self._source}: its tokenizer has no token for {lacking[0]}; it cannot judge so")

    def score(self, pairs: Sequence[Pair]) -> list[Scores]:
        """One score of each pair; `too_large` where the processor or model does not take it."""
        size = 1 if self.options.one_by_one else self.options.batch_size
        found: list[Scores] = []
        for at in range(0, len(pairs), size):
            found += self._scored(pairs[at : at + size])
        return found

    def _scored(self, pairs: Sequence[Pair]) -> list[Scores]:
        asks = [Ask(picture, b"", self.options.question.replace("{text}", text), 0) for picture, text in pairs]
        return [
            Scores.failed(self.names, "too_large") if logits is None else Scores(yes=self._share(logits))
            for logits in self._reader.logits(asks)
        ]

    def _share(self, logits: Tensor) -> float:
        """The sum over all tokens, by which probabilities are divided, is the same for both and falls out."""
        yes, no = (logits[ids].logsumexp(0) for ids in (self._yes, self._no))
        return float(torch.sigmoid(yes - no))


class FirstTokens(TransformersCaptioner):
    """A captioner that is asked for the logits of an answer's first token, in place of an answer."""

    def logits(self, asks: Sequence[Ask]) -> list[Tensor | None]:
        """Logits over the vocabulary, float32 on the CPU; None for asks that the processor or model does not take."""
        places = list(range(len(asks)))
        given = self._taken(asks, self.options)
        if given is None:  # one of them costs itself alone
            places = [at for at in places if self._taken([asks[at]], self.options)]
            given = self._inputs([asks[at] for at in places]) if places else None
        found: list[Tensor | None] = [None] * len(asks)
        if given:
            with torch.inference_mode():
                last = self._model(**given, **self._last_alone).logits[:, -1].float().cpu()
            for at, row in zip(places, last, strict=True):
                found[at] = row
        return found

    @cached_property
    def _last_alone(self) -> dict[str, int]:
        """Logits of a whole prompt over 150,000 tokens take a gigabyte; most models can leave out all but the last."""
        known = inspect.signature(self._model.forward).parameters
        return {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    def spellings(self, word: str) -> list[int]:
        """The tokens that are this word, in any case and with or without a blank before it."""
        known: Mapping[str, int] = self._tokenizer.get_vocab()
        return sorted(at for token, at in known.items() if token.strip(MARKS).lower() == word)
