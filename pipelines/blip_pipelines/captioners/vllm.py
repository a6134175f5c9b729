"""A captioner by vLLM in Ray's own batch engine (`ray.data.llm`); untried: no machine of the project's has had vLLM.

Ray loads the model anew for each call, which takes minutes for a large one: give it many pictures at a time
(`caption.batch_size`), or run `vllm serve` and use the `endpoint` captioner, whose server stays.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from blip_bootstrap.errors import InputError, RunFailed
from blip_bootstrap.settings.section import Count, Fraction, Section
from blip_pipelines.captioners.endpoint import checked, messages_about
from blip_pipelines.captioners.interface import Answer, Ask, VariesWith

Row = dict[str, Any]


class VllmOptions(Section):
    """A model, and how vLLM is to run it and to write."""

    model: Annotated[str, Field(min_length=1)] = Field(description="hub name or folder of the model, as vLLM takes it")
    engine: dict[str, Any] = Field({}, description="engine_kwargs of vLLM, such as tensor_parallel_size")
    batch_size: Count = Field(64, description="rows that Ray gives to an engine at a time")
    concurrency: Count = Field(1, description="engines, each with GPUs of its own")
    accelerator_type: str | None = Field(None, description="kind of GPU that Ray is to give, such as H100")
    max_tokens: Count = Field(64, description="the longest answer in tokens; one that reaches it is cut")
    temperature: Annotated[float, Field(ge=0, le=10)] = Field(1.0, description="0: always the likeliest token")
    top_p: Fraction = Field(1.0, description="draw among the likeliest tokens that together have this probability")
    system: str | None = Field(None, description="what is said before the picture and the prompt")
    revision: str = Field("", description="of the model, in your words: another one makes all texts anew")


class VllmCaptioner:
    """Captions by vLLM; needs `vllm` on the machines that Ray has."""

    varies_with: VariesWith = "batch"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = checked(VllmOptions, options)
        self._process: Callable[[Any], Any] | None = None

    @property
    def digest(self) -> str:
        """Of the model's name and revision, the engine's settings, and how it writes."""
        told = self.options.model_dump(mode="json", exclude={"batch_size", "concurrency", "accelerator_type"})
        return f"vllm:{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()}"

    def load(self, device: str, dtype: str) -> None:
        """Set up Ray's processor; the model is loaded by each call. Raises InputError where vLLM is not installed."""
        if importlib.util.find_spec("vllm") is None:
            raise InputError("vllm: it is not installed; pip install 'ray[llm]' on each machine, or serve the model")
        from ray.data import llm  # start-up: seconds, and with vLLM a minute

        options = self.options
        config = llm.vLLMEngineProcessorConfig(
            model_source=options.model,
            engine_kwargs={"dtype": dtype, **options.engine},
            batch_size=options.batch_size,
            concurrency=options.concurrency,
            accelerator_type=options.accelerator_type,
            prepare_multimodal_stage={"enabled": True, "chat_template_content_format": "openai"},
            should_continue_on_error=True,
        )
        self._process = llm.build_processor(config, preprocess=self.request_of, postprocess=told_of)

    def caption(self, asks: Sequence[Ask]) -> list[Answer]:
        """The answers, in order. Raises RunFailed where Ray gives back other rows than it was given."""
        if self._process is None:
            self.load("cuda", "auto")
            assert self._process
        from ray.data import from_items  # start-up: seconds

        rows = from_items([_row(at, ask) for at, ask in enumerate(asks)])
        found = {int(row["at"]): row for row in self._process(rows).take_all()}
        if found.keys() != set(range(len(asks))):
            raise RunFailed(f"vllm: {len(found)} of {len(asks)} rows came back; run again to go on")
        return [answer_of(found[at]) for at in range(len(asks))]

    def request_of(self, row: Row) -> Row:
        """What vLLM is asked for one row."""
        options = self.options.model_copy(update=json.loads(row["sampler"]))  # checked with the configuration
        how = {"temperature": options.temperature, "top_p": options.top_p, "max_tokens": options.max_tokens}
        sampling = {**how, "seed": row["seed"], "logprobs": 0}
        messages = messages_about(row["prompt"], options.system, None)
        picture = messages[-1]["content"][0]["image_url"]
        picture["url"] = f"data:image/jpeg;base64,{base64.b64encode(row['jpg']).decode()}"
        return {"at": row["at"], "messages": messages, "sampling_params": sampling}


def _row(at: int, ask: Ask) -> Row:
    sampler = json.dumps(dict(ask.sampler))  # Arrow has one type for all rows of a column
    return {"at": at, "jpg": ask.jpg, "prompt": ask.prompt, "seed": ask.seed % 2**31, "sampler": sampler}


def told_of(row: Row) -> Row:
    """Of vLLM's row what an answer has."""
    return {
        "at": row["at"],
        "text": row["generated_text"],
        "num_tokens": row["num_generated_tokens"],
        "num_prompt_tokens": row["num_input_tokens"],
        # Of each token the one that was drawn; Arrow may have filled in others of the batch, as None.
        "logprobs": [next(one["logprob"] for one in token.values() if one) for token in row.get("logprobs") or []],
    }


def answer_of(row: Row) -> Answer:
    """One row that Ray gave back."""
    if row.get("__inference_error__"):
        return Answer.failed("server_error", {"requests": 1})
    cost = {"requests": 1, "prompt_tokens": row["num_prompt_tokens"], "completion_tokens": row["num_tokens"]}
    logprobs = [float(one) for one in row["logprobs"] if math.isfinite(one)]
    return Answer(row["text"], row["num_tokens"], math.fsum(logprobs) if logprobs else None, cost=cost)
