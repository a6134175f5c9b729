"""A captioner behind OpenAI-compatible endpoints: each ask is one chat completion with the stored picture."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator

from blip_bootstrap.errors import ConfigError, InputError
from blip_bootstrap.settings.mistakes import in_words
from blip_bootstrap.settings.section import Count, Fraction, LocalPath, NonNegative, Positive, Section
from blip_pipelines.captioners.interface import Answer, Ask, VariesWith
from blip_pipelines.endpoints.answers import BadAnswer
from blip_pipelines.endpoints.client import Body, ChatClient, Link, Reply
from blip_pipelines.endpoints.ledger import Ledger

Options = TypeVar("Options", bound=Section)

PICTURE = f"picture-{uuid.uuid4().hex}"
"""Stands for a picture's URL until a request is sent; nobody can have written it into a prompt."""

SEEDS = 2**31
"""Seeds are sent modulo this: some servers take 32 bits with a sign, and -1 for none."""


class BudgetOptions(Section):
    """How much may be asked in a run, by all its workers and with all its tries together."""

    requests: NonNegative | None = Field(None, description="the most requests; null: no limit")
    tokens: NonNegative | None = Field(
        None, description="the most tokens, of prompts and answers, as servers count them; null: no limit"
    )
    ledger: LocalPath | None = Field(
        None,
        description="a folder that all workers see, where each notes what it asks; null: one beside the captions that "
        "are made, so that the budget is that of making them once",
    )


class LinkOptions(Section):
    """How endpoints are reached, how many requests at a time they are sent, and how patiently."""

    urls: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="servers of one and the same model, each as far as the version: https://host:8000/v1"
    )
    model: Annotated[str, Field(min_length=1)] = Field(description="the model's name, as the servers know it")
    answers_as: tuple[str, ...] = Field(
        (), description="other names that an answer may give of its model; those that begin with `model` are taken"
    )
    key_variable: str | None = Field(
        None, description="the environment variable that holds the key, on each machine; null: no key is sent"
    )
    key_header: str = Field("Authorization", description="the header that has the key; Azure: api-key")
    max_in_flight: Count = Field(32, description="the most requests at a time, to each server and by each worker")
    start_in_flight: Count = Field(8, description="how many it begins with; it doubles while the server keeps up")
    timeout_s: Positive = Field(120.0, description="for one try, from the connection to the last byte")
    connect_timeout_s: Positive = Field(10.0, description="for opening a connection")
    max_tries: Count = Field(6, description="how often one request is sent before it has no answer")
    give_up_s: Positive = Field(
        300.0, description="where no server answers anything for so long, the run ends; at least twice timeout_s"
    )
    budget: BudgetOptions = BudgetOptions()

    @field_validator("urls")
    @classmethod
    def _are_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parts = urlsplit(url)
            if parts.username or parts.password or parts.query:
                raise ValueError(f"{parts.hostname}: no key belongs in a URL; set key_variable")
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"{url!r} is no URL; write https://HOST/v1")
            if parts.path.rstrip("/").endswith("/completions"):
                raise ValueError(f"{url}: leave /chat/completions out")
        return tuple(dict.fromkeys(url.rstrip("/") for url in urls))

    @field_validator("key_variable")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):
            raise ValueError("it is the name of an environment variable, such as OPENAI_API_KEY, and not the key")
        return name

    def link(self) -> Link:
        """With the key, which is read here. Raises InputError where the variable is not set."""
        key = os.environ.get(self.key_variable, "").strip() if self.key_variable else None
        if key == "" or (key and not key.isprintable()):
            raise InputError(
                f"{self.key_variable}: this environment variable has no key; set it on each machine that asks, "
                "before Ray is started there"
            )
        shared = Link.__dataclass_fields__.keys() & type(self).model_fields.keys()
        return Link(key=key, **{name: getattr(self, name) for name in shared})

    def open(self) -> ChatClient:
        """The connection to these servers, with the account of what they are asked."""
        budget = self.budget
        return ChatClient(self.link(), Ledger(budget.ledger, budget.requests, budget.tokens))


class EndpointOptions(LinkOptions):
    """Servers, and how they are to write."""

    max_tokens: Count = Field(64, description="the longest answer in the model's tokens; one that reaches it is cut")
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the servers call it"
    )
    temperature: Annotated[float, Field(ge=0, le=10)] | None = Field(None, description="null: the server's own")
    top_p: Fraction | None = Field(None, description="null: the server's own")
    system: str | None = Field(None, description="what is said before the picture and the prompt")
    detail: Literal["auto", "low", "high"] | None = Field(None, description="how closely it looks, where it can")
    logprobs: bool = Field(False, description="ask for log-probabilities, which give `logprob`")
    send_seed: bool = Field(True, description="send each text's seed; off for servers that take none")
    extra: dict[str, Any] = Field({}, description="what else a request has, such as chat_template_kwargs")
    revision: str = Field("", description="of the model, in your words: another one makes all texts anew")


DECIDING = (
    "model", "max_tokens", "temperature", "top_p", "system", "detail", "logprobs", "send_seed", "extra", "revision",
)  # fmt: skip
"""The options that a text may change with. Where a server stands, how it is reached and what may be spent are not."""


class EndpointCaptioner:
    """Captions by chat completions of a pool of servers; see `EndpointOptions`."""

    varies_with: VariesWith = "server"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = checked(EndpointOptions, options)
        self._given = dict(options)
        self._client: ChatClient | None = None
        self._options_of = lru_cache(maxsize=256)(self._with_sampler)

    @staticmethod
    def with_account(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """These options, with `folder` for the account of what is asked where they name none."""
        budget = {"ledger": str(folder), **{k: v for k, v in (options.get("budget") or {}).items() if v is not None}}
        return {**options, "budget": budget}

    @property
    def digest(self) -> str:
        """Of the options in DECIDING."""
        return digest_of(self.options, DECIDING)

    def load(self, device: str, dtype: str) -> None:
        """Read the key and make ready; nothing is asked. Raises InputError where the key's variable is not set."""
        del device, dtype  # the servers' own
        self._client = self.options.open()

    def caption(self, asks: Sequence[Ask]) -> list[Answer]:
        """The answers, in order. Raises RunFailed where no server can be asked any more, in a line that says why."""
        if self._client is None:
            self.load("cpu", "float32")
            assert self._client
        bodies: list[Body] = [partial(self._encoded, ask) for ask in asks]
        return [answer_of(reply) for reply in self._client.ask_all(bodies, read_text)]

    def _encoded(self, ask: Ask) -> bytes:
        return with_picture(self.body(ask), ask.jpg)

    def body(self, ask: Ask) -> dict[str, Any]:
        """The request for one text: what the system says, the picture (as PICTURE), the prompt, and how to write."""
        options = self._options_of(json.dumps(dict(ask.sampler), sort_keys=True)) if ask.sampler else self.options
        known: dict[str, Any] = {"temperature": options.temperature, "top_p": options.top_p}
        known[options.max_tokens_name] = options.max_tokens
        known |= {"seed": ask.seed % SEEDS} if options.send_seed else {}
        known |= {"logprobs": True} if options.logprobs else {}
        given = {name: value for name, value in known.items() if value is not None}
        messages = messages_about(ask.prompt, options.system, options.detail)
        return {"model": options.model, "messages": messages, **given, **options.extra}

    def _with_sampler(self, sampler: str) -> EndpointOptions:
        """The options, with those of a prompt's sampler in their place."""
        return checked(EndpointOptions, {**self._given, **json.loads(sampler)})

    def close(self) -> None:
        """Close the connections."""
        if self._client:
            self._client.close()
            self._client = None


def checked(kind: type[Options], options: Mapping[str, Any]) -> Options:
    """The options of a captioner or judge. Raises ConfigError, a line a mistake; none shows what may be a key."""
    try:
        return kind.model_validate(dict(options))
    except ValidationError as error:
        raise ConfigError(list(dict.fromkeys(_mistake(kind, dict(item)) for item in error.errors()))) from None


def _mistake(kind: type[Section], item: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        near = get_close_matches(str(item["loc"][-1]), kind.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known options: {', '.join(kind.model_fields)}"
        return f"{where}: unknown option; {hint}"
    if item["type"] == "value_error":  # ours, which say what may be shown
        return f"{where}: {str(item['msg']).removeprefix('Value error, ')}"
    return f"{where}: {in_words(item)}"


def digest_of(options: Section, names: Sequence[str]) -> str:
    """A digest of what the options of these names are, whatever else is set."""
    told = options.model_dump(mode="json", include=set(names))
    return f"endpoint:{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()}"


def messages_about(prompt: str, system: str | None, detail: str | None) -> list[dict[str, Any]]:
    """The messages of a request: what the system says, and then the picture (as PICTURE) with the prompt."""
    url = {"url": PICTURE} | ({"detail": detail} if detail else {})
    content = [{"type": "image_url", "image_url": url}, {"type": "text", "text": prompt}]
    begin = [{"role": "system", "content": system}] if system else []
    return [*begin, {"role": "user", "content": content}]


def with_picture(body: Mapping[str, Any], jpg: bytes) -> bytes:
    """A request as JSON, in which the data: URL of a stored picture stands for PICTURE.

    It is put in after the rest is written: that json looks for signs to escape in 60 kB of base64 takes as long as all
    else that is done for a request.
    """
    url = b"data:image/jpeg;base64," + base64.b64encode(jpg)
    return json.dumps(body).encode().replace(PICTURE.encode(), url, 1)


def first_choice(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one choice of an answer. Raises BadAnswer where there is none, or the server would not write."""
    choices = payload.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, Mapping) or not isinstance(choice.get("message"), Mapping):
        raise BadAnswer
    if choice.get("finish_reason") == "content_filter" or choice["message"].get("refusal"):
        raise BadAnswer("refused", final=True)
    return choice


def read_text(payload: Mapping[str, Any]) -> Answer:
    """The text of an answer, its tokens, and their log-likelihood where the server gives it."""
    choice = first_choice(payload)
    content = choice["message"].get("content")
    if isinstance(content, list):  # parts, of which those of a reasoning have another type
        content = "".join(str(p.get("text", "")) for p in content if isinstance(p, Mapping) and p.get("type") == "text")
    if not isinstance(content, str):
        raise BadAnswer
    cut = ("cut_at_max_length",) if choice.get("finish_reason") == "length" else ()
    usage = payload.get("usage")
    told = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    logprobs = token_logprobs(choice)
    num_tokens = told if isinstance(told, int) and told >= 0 else len(logprobs) or None
    values = [one["logprob"] for one in logprobs]
    return Answer(content, num_tokens, math.fsum(values) if values else None, cut)


def token_logprobs(choice: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tokens of a choice with their `logprob`, where each has a finite one; else none."""
    told = choice.get("logprobs")
    tokens = told.get("content") if isinstance(told, Mapping) else None
    if not isinstance(tokens, list):
        return []
    finite = [one for one in tokens if isinstance(one, Mapping) and is_finite(one.get("logprob"))]
    return finite if len(finite) == len(tokens) else []


def is_finite(value: object) -> bool:
    """Whether this is a number, and a finite one."""
    return isinstance(value, int | float) and math.isfinite(value)


def answer_of(reply: Reply[Answer]) -> Answer:
    """What the step is told of a reply."""
    if reply.value is None:
        return Answer.failed(reply.error or "bad_answer", reply.cost)
    return replace(reply.value, cost=reply.cost)
