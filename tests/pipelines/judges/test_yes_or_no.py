"""A model's yes or no at an endpoint, as a score."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from blip_bootstrap.errors import ConfigError, RunFailed
from blip_pipelines.endpoints.answers import BadAnswer
from blip_pipelines.judges.yes_or_no import EndpointJudge, first_tokens, yes_of
from tests.support.chat_server import ChatServer

PAIRS = [(Image.new("RGB", (8, 8), (number, 0, 0)), f"a dog {number}") for number in range(5)]


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with ChatServer() as server:
        yield server


def judge(server: ChatServer, **options: Any) -> EndpointJudge:
    return EndpointJudge({"urls": [server.url], "model": "tiny", "max_tries": 2, **options})


def test_the_score_is_the_probability_of_all_spellings_of_yes(server: ChatServer) -> None:
    server.be(yes=0.7, latency_s=0)
    one = judge(server)
    scores = one.score(PAIRS)
    assert [score.keys() for score in scores] == [set(one.names)] * 5
    assert [score["yes"] for score in scores] == pytest.approx([0.7] * 5)
    body = server.counts()["last"]["body"]
    assert 'Does this figure show "a dog ' in body["messages"][0]["text"]
    assert (body["max_tokens"], body["temperature"], body["logprobs"], body["top_logprobs"]) == (1, 0, True, 20)
    assert [score["yes"] for score in one.score(PAIRS[:1] * 2)] == pytest.approx([0.7, 0.7])


def test_a_certain_answer_is_one_or_none_of_it(server: ChatServer) -> None:
    server.be(yes=0.95, latency_s=0)
    assert judge(server).score(PAIRS[:1])[0]["yes"] == pytest.approx(0.95)
    server.be(yes=0.0, latency_s=0)
    assert judge(server).score(PAIRS[:1]) == [{"yes": 0.0}]


def test_pictures_that_are_refused_have_no_score(server: ChatServer) -> None:
    server.be(first=["ok", "refusal"], yes=0.5, latency_s=0)
    scores = judge(server, max_in_flight=1).score(PAIRS[:3])
    assert sorted(score["yes"] is None for score in scores) == [False, False, True]


def test_a_server_without_log_probabilities_is_no_judge(server: ChatServer) -> None:
    server.be(latency_s=0)
    with pytest.raises(RunFailed, match="judge tiny: its answers have no log-probabilities"):
        judge(server).score(PAIRS)


def test_the_tokens_of_an_answer() -> None:
    def payload(*top: tuple[str, object]) -> dict[str, Any]:
        told = [{"token": token, "logprob": logprob} for token, logprob in top]
        first = {"token": "x", "logprob": -1.0, "top_logprobs": told}
        return {"choices": [{"message": {"content": "x"}, "logprobs": {"content": [first]}}]}

    tokens = first_tokens(payload(("Yes", math.log(0.5)), ("▁yes", math.log(0.25)), ("Yes", math.log(0.125))))
    assert yes_of(tokens) == pytest.approx(0.875)
    assert yes_of(first_tokens(payload(("NO", -0.1)))) == 0.0
    assert yes_of(first_tokens(payload(("maybe", -0.1)))) is None
    assert yes_of({}) is None
    with pytest.raises(BadAnswer):
        first_tokens(payload(("Yes", float("nan"))))
    with pytest.raises(BadAnswer):
        first_tokens(payload(("Yes", 0.7)))  # a probability above one


def test_a_question_without_the_text_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"question: \{text\} must stand in it"):
        EndpointJudge({"urls": ["http://h/v1"], "model": "m", "question": "Is it so?"})


def test_the_digest_is_of_what_decides_scores(server: ChatServer) -> None:
    assert judge(server).digest == judge(server, max_in_flight=2).digest != judge(server, question="{text}?").digest
