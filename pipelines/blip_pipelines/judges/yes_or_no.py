"""The yes or no of a model behind OpenAI-compatible endpoints, as a score of a text beside its picture (VQAScore)."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from PIL.Image import Image
from pydantic import AfterValidator, Field

from blip_bootstrap.errors import RunFailed
from blip_pipelines.captioners.endpoint import (
    LinkOptions,
    checked,
    digest_of,
    first_choice,
    is_finite,
    messages_about,
    token_logprobs,
    with_picture,
)
from blip_pipelines.captioners.interface import VariesWith
from blip_pipelines.endpoints.answers import BadAnswer
from blip_pipelines.endpoints.client import Body, ChatClient, Reply

QUESTION = 'Does this figure show "{text}"? Please answer yes or no.'
"""VQAScore's (Lin et al. 2024, arXiv 2404.01291, section 3)."""


def _has_text(question: str) -> str:
    if "{text}" not in question:
        raise ValueError("{text} must stand in it, where the text is to be")
    return question


Question = Annotated[str, AfterValidator(_has_text)]
"""What is asked about a text, which stands where {text} is."""

JPEG_QUALITY = 95
"""Of pictures that come without their bytes."""


class JudgeOptions(LinkOptions):
    """Servers, and what they are asked about a text and its picture."""

    question: Question = Field(QUESTION, description="what is asked; {text} stands for the text")
    top_logprobs: Annotated[int, Field(ge=2, le=100)] = Field(
        20, description="how many of the likeliest first tokens the server tells; OpenAI has 20 at most"
    )
    detail: str | None = Field(None, description="how closely it looks, where it can: auto, low or high")
    extra: dict[str, Any] = Field({}, description="what else a request has")
    revision: str = Field("", description="of the model, in your words: another one makes all scores anew")


class EndpointJudge:
    """The probability that a model answers yes to whether a picture shows a text: `yes`, 0 to 1.

    It is read off the log-probabilities of the answer's first token, over all spellings of yes; so no token is drawn,
    and servers that tell no `top_logprobs` cannot judge. Null where the server would not look at the picture, or
    neither yes nor no is among its likeliest tokens.
    """

    names: tuple[str, ...] = ("yes",)
    varies_with: VariesWith = "server"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = checked(JudgeOptions, options)
        self._client: ChatClient | None = None
        self._num_told = 0

    @property
    def digest(self) -> str:
        """Of the model's name and revision, the question, and how it is asked."""
        return digest_of(self.options, ("model", "question", "top_logprobs", "detail", "extra", "revision"))

    def load(self, device: str = "cpu", dtype: str = "float32") -> None:
        """Read the key and make ready. Raises InputError where the key's variable is not set."""
        del device, dtype
        self._client = self.options.open()

    def score(self, pairs: Sequence[tuple[Image, str]]) -> list[dict[str, float | None]]:
        """The scores of pictures beside texts, in order. Raises RunFailed as `asked` does."""
        return [{"yes": None if one.value is None else yes_of(one.value)} for one in self.asked(pairs)]

    def asked(self, pairs: Sequence[tuple[Image, str]]) -> list[Reply[dict[str, float]]]:
        """The likeliest first tokens of the answer about each pair, or why there is none.

        Raises RunFailed where no server can be asked any more, or where the first answers have no log-probabilities.
        """
        if self._client is None:
            self.load()
            assert self._client
        bodies: list[Body] = [partial(self._encoded, picture, text) for picture, text in pairs]
        replies = self._client.ask_all(bodies, first_tokens)
        self._check(replies)
        return replies

    def _encoded(self, picture: Image, text: str) -> bytes:
        stored = io.BytesIO()
        picture.convert("RGB").save(stored, "JPEG", quality=JPEG_QUALITY)
        return with_picture(self.body(text), stored.getvalue())

    def body(self, text: str) -> dict[str, Any]:
        """The request for one score: one token, and the likeliest tokens in its place."""
        options = self.options
        messages = messages_about(options.question.replace("{text}", text), None, options.detail)
        asked = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": options.top_logprobs}
        return {"model": options.model, "messages": messages, **asked, **options.extra}

    def _check(self, replies: Sequence[Reply[dict[str, float]]]) -> None:
        self._num_told += sum(bool(reply.value) for reply in replies)
        if replies and not self._num_told and any(reply.value == {} for reply in replies):
            raise RunFailed(
                f"judge {self.options.model}: its answers have no log-probabilities (logprobs, top_logprobs); "
                "use a server that tells them, as vLLM does"
            )

    def close(self) -> None:
        """Close the connections."""
        if self._client:
            self._client.close()
            self._client = None


def first_tokens(payload: Mapping[str, Any]) -> dict[str, float]:
    """The likeliest first tokens of an answer and their probabilities; empty where the server tells none."""
    tokens = token_logprobs(first_choice(payload))
    top = tokens[0].get("top_logprobs") if tokens else None
    if not isinstance(top, list):
        return {}
    told = [one for one in top if isinstance(one, Mapping) and isinstance(one.get("token"), str)]
    if any(not is_finite(one.get("logprob")) or one["logprob"] > 1e-3 for one in told):
        raise BadAnswer
    found: dict[str, float] = {}
    for one in told:
        found[one["token"]] = found.get(one["token"], 0.0) + math.exp(min(0.0, one["logprob"]))
    return found


def yes_of(tokens: Mapping[str, float]) -> float | None:
    """The probability of yes, in any case and with blanks around it; None where neither yes nor no is told."""
    yes, no = (probability_of(word, tokens) for word in ("yes", "no"))
    return None if yes is None and no is None else yes or 0.0


def probability_of(word: str, tokens: Mapping[str, float]) -> float | None:
    """The probability of a word, in any case and with blanks around it; None where it is not told."""
    told = [p for token, p in tokens.items() if token.strip().strip("▁Ġ").lower() == word]
    return min(1.0, math.fsum(told)) if told else None
