"""The call of vLLM by Ray's batch engine, with a stub in the place of what needs a GPU."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

import pytest
from PIL import Image

from blip_bootstrap.errors import ConfigError, InputError, RunFailed
from blip_pipelines.captioners.interface import Ask, Captioner
from blip_pipelines.captioners.vllm import VllmCaptioner

OPTIONS = {"model": "Qwen/Qwen2.5-VL-3B-Instruct", "temperature": 0.5, "engine": {"max_model_len": 4096}}

PICTURE = Image.new("RGB", (8, 8))

ASKS = [Ask(PICTURE, b"jpg", f"Describe {n}.", seed=2**62 + n, sampler={"top_p": 0.5}) for n in range(3)]


class Rows(list[dict[str, Any]]):
    """What `from_items` and a processor give back."""

    def take_all(self) -> list[dict[str, Any]]:
        return list(self)


class Engine:
    """Rows to rows as Ray's vLLM processor has them (ray 2.60, vllm_engine_stage.py), in another order."""

    def __init__(self, config: Any, preprocess: Callable[..., Any], postprocess: Callable[..., Any]) -> None:
        self.config, self.preprocess, self.postprocess = config, preprocess, postprocess
        self.requests: list[dict[str, Any]] = []

    def __call__(self, rows: Rows) -> Rows:
        return Rows(self.answer(row) for row in reversed(rows))

    def answer(self, row: dict[str, Any]) -> dict[str, Any]:
        request = self.preprocess(row)
        self.requests.append(request)
        if request["at"] == 1:  # errors bypass the postprocess
            return {"at": 1, "__inference_error__": "RuntimeError: too long"}
        logprobs = [{5: {"logprob": -0.5, "rank": 1}, 7: None}, {7: {"logprob": -0.25, "rank": 2}}]
        told = {"generated_text": f"text {request['at']}", "num_generated_tokens": 2, "num_input_tokens": 300}
        return {**self.postprocess({**request, **told, "logprobs": logprobs}), "__inference_error__": ""}


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    from ray import data

    with warnings.catch_warnings(action="ignore"):  # its own, of pydantic
        from ray.data import llm

    made: list[Engine] = []

    def build(*arguments: Any, **more: Any) -> Engine:
        made.append(Engine(*arguments, **more))
        return made[-1]

    find = importlib.util.find_spec
    there = ModuleSpec("vllm", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: there if name == "vllm" else find(name, *more))
    monkeypatch.setattr(llm, "build_processor", build)
    monkeypatch.setattr(data, "from_items", Rows)
    return made


def test_rows_come_back_in_the_order_of_the_asks(engines: list[Engine]) -> None:
    captioner = VllmCaptioner(OPTIONS)
    assert isinstance(captioner, Captioner)
    captioner.load("cuda", "bfloat16")
    answers = captioner.caption(ASKS)
    assert [(a.text, a.error, a.num_tokens) for a in answers] == [
        ("text 0", None, 2), ("", "server_error", None), ("text 2", None, 2),
    ]  # fmt: skip
    assert answers[0].logprob is not None
    assert math.isclose(answers[0].logprob, -0.75)
    assert answers[0].cost == {"requests": 1, "prompt_tokens": 300, "completion_tokens": 2}


def test_the_engine_is_asked_as_ray_documents_it(engines: list[Engine]) -> None:
    captioner = VllmCaptioner(OPTIONS)
    captioner.load("cuda", "bfloat16")
    captioner.caption(ASKS[:1])
    (engine,) = engines
    assert engine.config.model_source == OPTIONS["model"]
    assert engine.config.engine_kwargs.items() >= {"dtype": "bfloat16", "max_model_len": 4096}.items()
    (request,) = engine.requests
    assert request["sampling_params"] == {
        "temperature": 0.5, "top_p": 0.5, "max_tokens": 64, "seed": 2**62 % 2**31, "logprobs": 0,
    }  # fmt: skip
    picture, prompt = request["messages"][0]["content"]
    assert picture["image_url"]["url"] == "data:image/jpeg;base64,anBn"
    assert prompt == {"type": "text", "text": "Describe 0."}


def test_lost_rows_end_the_run(engines: list[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = VllmCaptioner(OPTIONS)
    captioner.load("cuda", "bfloat16")
    monkeypatch.setattr(Engine, "__call__", lambda self, rows: Rows(rows[:0]))
    with pytest.raises(RunFailed, match="vllm: 0 of 3 rows came back"):
        captioner.caption(ASKS)


def test_where_vllm_is_not_installed_it_is_said() -> None:
    if importlib.util.find_spec("vllm"):
        pytest.skip("vllm is installed")
    with pytest.raises(InputError, match="vllm: it is not installed"):
        VllmCaptioner(OPTIONS).load("cuda", "bfloat16")


def test_wrong_options_are_said() -> None:
    with pytest.raises(ConfigError, match=r"modl: unknown option; did you mean model\?"):
        VllmCaptioner({"model": "m", "modl": "x"})
