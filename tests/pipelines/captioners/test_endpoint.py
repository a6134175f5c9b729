"""The endpoint captioner against a server process that misbehaves."""

from __future__ import annotations

import io
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blip_bootstrap.config import WriterConfig
from blip_bootstrap.errors import ConfigError, InputError, RunFailed
from blip_bootstrap.schemas.closed_lists import NO_ANSWERS
from blip_pipelines.captioners.conformance import assert_conforms
from blip_pipelines.captioners.endpoint import EndpointCaptioner
from blip_pipelines.captioners.interface import Ask, Captioner
from blip_pipelines.captioners.registry import mistakes_of
from blip_pipelines.endpoints import client
from blip_pipelines.endpoints.ledger import Account, Ledger
from tests.support.chat_server import ChatServer

KEY = "sk-secret-key"

SLOW = ("hang", "drip")


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with ChatServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSES_S", (0.01, 0.05))


def captioner(*servers: ChatServer | str, **options: Any) -> EndpointCaptioner:
    urls = [one if isinstance(one, str) else one.url for one in servers]
    return EndpointCaptioner({"urls": urls, "model": "tiny", "timeout_s": 20, **options})


def asks(count: int, prompt: str = "Describe it.", **more: Any) -> list[Ask]:
    return [ask(number, prompt, **more) for number in range(count)]


def ask(number: int, prompt: str, **more: Any) -> Ask:
    picture = Image.new("RGB", (8, 8), (number % 256, number // 256, 7))
    stored = io.BytesIO()
    picture.save(stored, "JPEG")
    return Ask(picture, stored.getvalue(), prompt, seed=2**62 + number, **more)


def test_texts_come_in_the_order_of_the_asks_with_what_they_cost(server: ChatServer) -> None:
    server.be(latency_s=0.01)
    one = captioner(server, logprobs=True)
    assert isinstance(one, Captioner)
    answers = one.caption(asks(40))
    counts = server.counts()
    assert sorted(answer.text for answer in answers) == sorted(
        f"a drawing {n} of Describe it." for n in counts["asked"]
    )
    assert [answer.text for answer in answers[7:9]] == [answer.text for answer in one.caption(asks(40)[7:9])]
    assert [answer.text for answer in answers] == [answer.text for answer in one.caption(asks(40))]
    assert {answer.error for answer in answers} == {None}
    assert {(a.cost["requests"], a.cost["prompt_tokens"], a.cost["completion_tokens"]) for a in answers} == {
        (1, 90, 10)
    }
    assert {(a.num_tokens, a.logprob) for a in answers} == {(10, -0.75)}
    one.close()


def test_a_request_has_what_the_options_and_the_sampler_say(server: ChatServer) -> None:
    server.be(latency_s=0)
    options = {"temperature": 0.5, "top_p": 0.9, "system": "You caption.", "detail": "low", "extra": {"top_k": 5}}
    one = captioner(server, max_tokens_name="max_completion_tokens", **options)
    one.caption([ask(1, "What is it?", sampler={"temperature": 1.0, "max_tokens": 9})])
    body = server.counts()["last"]["body"]
    assert body["messages"] == [{"role": "system", "content": "You caption."}, {"type": "text", "text": "What is it?"}]
    del body["messages"]
    assert body == {
        "model": "tiny", "temperature": 1.0, "top_p": 0.9, "max_completion_tokens": 9, "top_k": 5,
        "seed": (2**62 + 1) % 2**31,
    }  # fmt: skip
    silent = captioner(server, send_seed=False)
    silent.caption(asks(1))
    assert server.counts()["last"]["body"].keys() == {"model", "messages", "max_tokens"}


@pytest.mark.parametrize(
    "manner", ["429", "429_later", "429_date", "500", "503", "reset", "hang", "bad_json", "no_choices", "no_text",
               "drip", "cut_off", "endless", "error_in_200"]
)  # fmt: skip
def test_what_goes_wrong_once_is_asked_again(server: ChatServer, manner: str) -> None:
    server.be(first=[manner], latency_s=0)
    (answer,) = captioner(server, timeout_s=1 if manner in SLOW else 20).caption(asks(1))
    assert answer.text.startswith("a drawing ")
    assert answer.cost["requests"] == 2
    assert server.counts()["by_manner"] == {manner: 1, "ok": 1}


@pytest.mark.parametrize(
    ("manner", "error", "requests"),
    [
        ("429", "rate_limited", 2), ("hang", "timeout", 2), ("drip", "timeout", 2), ("500", "server_error", 2),
        ("503", "server_error", 2), ("reset", "server_error", 2), ("cut_off", "server_error", 2),
        ("bad_json", "bad_answer", 2), ("no_choices", "bad_answer", 2), ("no_text", "bad_answer", 2),
        ("refusal", "refused", 1), ("filtered", "refused", 1), ("filtered_400", "refused", 1),
        ("malformed", "bad_request", 1), ("too_large", "too_large", 1),
    ],
)  # fmt: skip
def test_what_goes_wrong_for_ever_is_a_reason(server: ChatServer, manner: str, error: str, requests: int) -> None:
    server.be(always=manner, latency_s=0)
    (answer,) = captioner(server, max_tries=2, timeout_s=0.6 if manner in SLOW else 20).caption(asks(1))
    assert (answer.text, answer.error, answer.cost["requests"]) == ("", error, requests)
    assert answer.error in NO_ANSWERS
    assert server.counts()["requests"] == requests


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("401", "answers 401: it takes no key, or another one; set key_variable"),
        ("402", "answers 402: it wants to be paid first"),
        ("403", "answers 403: this key may not ask for that"),
        ("404", "answers 404: The model `tiny` does not exist (key ***)"),
        ("429_quota", "answers 429: the key's quota is spent"),
        ("redirect", "answers 307: "),
        ("other_model", "answers as somebody-else-7b, not tiny; set answers_as, where that is the same"),
    ],
)
def test_what_no_request_can_cure_ends_the_run_in_one_line_without_the_key(
    server: ChatServer, manner: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_KEY", KEY)
    server.be(always=manner, latency_s=0)
    with pytest.raises(RunFailed) as failed:
        captioner(server, key_variable="TINY_KEY").caption(asks(20))
    assert words in str(failed.value)
    assert "\n" not in str(failed.value)
    assert KEY not in str(failed.value)
    assert server.counts()["requests"] <= 20


def test_a_server_that_takes_no_request_at_all_is_asked_sixteen_times(server: ChatServer) -> None:
    server.be(always="malformed", latency_s=0)
    one = captioner(server, start_in_flight=1, max_in_flight=1)
    with pytest.raises(RunFailed, match="refused each of the first 16 requests: 400 unknown field `seed`"):
        one.caption(asks(40))
    assert server.counts()["requests"] == 16


def test_the_key_is_sent_and_stays_out_of_sight(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_KEY", KEY)
    server.be(key=KEY, latency_s=0)
    one = captioner(server, key_variable="TINY_KEY")
    one.load("cpu", "float32")
    assert one.caption(asks(1))[0].error is None
    assert KEY not in repr(one.options) + one.digest + repr(one.options.link()) + one.options.model_dump_json()
    assert KEY.encode() not in pickle.dumps(one.options)
    azure = captioner(server, key_variable="TINY_KEY", key_header="api-key")
    with pytest.raises(RunFailed):
        azure.caption(asks(1))
    assert server.counts()["last"]["headers"]["api-key"] == KEY


def test_a_variable_without_a_key_is_said(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINY_KEY", raising=False)
    with pytest.raises(InputError, match="TINY_KEY: this environment variable has no key; set it on each machine"):
        captioner(server, key_variable="TINY_KEY").load("cpu", "float32")


def test_five_percent_of_failures_leave_no_row_without_text_or_reason(server: ChatServer) -> None:
    shares = {"429_later": 0.02, "500": 0.01, "reset": 0.005, "bad_json": 0.005, "refusal": 0.01}
    server.be(shares=shares, latency_s=0.005)
    answers = captioner(server).caption(asks(600))
    assert len(answers) == 600
    assert {answer.error for answer in answers} == {None, "refused"}
    assert all(bool(answer.text) == (answer.error is None) for answer in answers)
    counts = server.counts()
    assert sum(answer.cost["requests"] for answer in answers) == counts["requests"]
    assert set(counts["answered"].values()) == {1}
    assert sum(a.cost["prompt_tokens"] + a.cost["completion_tokens"] for a in answers) == counts["tokens"]


def test_a_limit_that_the_server_has_is_found(server: ChatServer) -> None:
    server.be(most_in_flight=6, latency_s=0.02)
    one = captioner(server, start_in_flight=1, max_in_flight=64)
    answers = one.caption(asks(400))
    assert {answer.error for answer in answers} == {None}
    counts = server.counts()
    assert one._client
    (endpoint,) = one._client.endpoints
    assert endpoint.num_cuts
    assert endpoint.limit < 12
    assert counts["by_manner"]["429"] < 80  # a limit of 64 that is not adapted is told so hundreds of times


def test_a_server_that_grows_slow_is_asked_less(server: ChatServer) -> None:
    server.be(latency_s=0, latency_each_s=0.01)  # 10 ms of work for each: more at a time gain nothing
    one = captioner(server, start_in_flight=1, max_in_flight=200)
    one.caption(asks(400))
    assert one._client
    (endpoint,) = one._client.endpoints
    assert endpoint.num_cuts
    assert endpoint.most_in_flight < 200


def test_requests_go_to_who_is_there(server: ChatServer) -> None:
    with socket.socket() as free:  # bound, and nobody listens
        free.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        server.be(latency_s=0.01)
        answers = captioner(gone, server).caption(asks(60))
        assert {answer.error for answer in answers} == {None}
        assert {answer.cost["requests"] for answer in answers} == {1}
        with pytest.raises(
            RunFailed, match=r"no endpoint has answered for 1\.2 s; the last failure was no_connection at"
        ):
            captioner(gone, give_up_s=0.1, timeout_s=0.6).caption(asks(3))


def test_a_pool_shares_the_work_and_leaves_out_who_refuses(server: ChatServer) -> None:
    with ChatServer(latency_s=0.02) as second, ChatServer(always="401") as third:
        server.be(latency_s=0.02)
        one = captioner(server, second, third)
        answers = one.caption(asks(200))
        assert {answer.error for answer in answers} == {None}
        shares = [each.counts()["requests"] for each in (server, second, third)]
    assert min(shares[:2]) > 30
    assert shares[2] <= 8


def test_what_was_answered_is_returned_before_the_run_ends(server: ChatServer) -> None:
    server.be(first=["ok"] * 5, always="402", latency_s=0)
    one = captioner(server, start_in_flight=1, max_in_flight=1)
    answers = one.caption(asks(8))
    assert [answer.error for answer in answers].count(None) == 5
    assert len(answers) == 8
    with pytest.raises(RunFailed, match="402"):
        one.caption(asks(8))
    assert server.counts()["requests"] == 6


def test_the_budget_holds_over_workers_and_tries(server: ChatServer, tmp_path: Path) -> None:
    server.be(latency_s=0.005)
    budget = {"requests": 100, "ledger": str(tmp_path / "spent")}
    workers = [captioner(server, budget=budget) for _ in range(3)]
    answers = [answer for one in workers for answer in one.caption(asks(60))]
    assert server.counts()["requests"] == 100
    assert [answer.error for answer in answers].count("over_budget") == 80
    again = captioner(server, budget=budget).caption(asks(5))
    assert {(answer.error, answer.cost["requests"]) for answer in again} == {("over_budget", 0)}
    more = captioner(server, budget={**budget, "requests": 103}).caption(asks(5))
    assert [answer.error for answer in more].count(None) == 3
    assert Ledger(tmp_path / "spent").spent() == Account(103, 10300)


def test_a_budget_of_tokens_is_passed_by_what_is_in_flight_at_most(server: ChatServer, tmp_path: Path) -> None:
    server.be(latency_s=0.005)
    one = captioner(server, max_in_flight=4, start_in_flight=2, budget={"tokens": 5000, "ledger": str(tmp_path)})
    answers = one.caption(asks(100))
    assert 5000 <= server.counts()["tokens"] <= 5400
    assert [answer.error for answer in answers].count("over_budget") >= 46


def test_a_budget_without_a_folder_is_that_of_one_captioner(server: ChatServer) -> None:
    server.be(latency_s=0)
    for _ in range(2):
        answers = captioner(server, budget={"requests": 3}).caption(asks(5))
        assert [answer.error for answer in answers].count("over_budget") == 2


def test_the_account_is_kept_where_the_step_says_unless_a_ledger_is_set() -> None:
    folder = Path("/run/.account")
    options = {"urls": ["http://h/v1"], "model": "m"}
    assert EndpointCaptioner.with_account(options, folder)["budget"] == {"ledger": "/run/.account"}
    own = {"requests": 5, "ledger": "/own"}
    assert EndpointCaptioner.with_account({**options, "budget": own}, folder)["budget"] == own
    assert EndpointCaptioner.with_account({**options, "budget": {"ledger": None}}, folder)["budget"] == {
        "ledger": "/run/.account"
    }
    with_it = EndpointCaptioner(EndpointCaptioner.with_account(options, folder))
    assert with_it.digest == EndpointCaptioner(options).digest


def test_it_passes_the_suite_of_all_captioners(server: ChatServer) -> None:
    server.be(latency_s=0)
    outcomes = {one.check: one.outcome for one in assert_conforms("openai", {"urls": [server.url], "model": "tiny"})}
    assert outcomes["answers each ask"] == "passed"
    assert outcomes["same in any order"] == "not promised"


def test_wrong_options_of_a_writer_are_told_with_its_name() -> None:
    options = {"urls": ["http://h/v1"], "model": "m", "temprature": 1}
    writer = WriterConfig.model_validate({"name": "chat", "kind": "openai", "options": options})
    assert mistakes_of(writer) == ["caption.writers.chat: temprature: unknown option; did you mean temperature?"]


@pytest.mark.parametrize("manner", ["list_content", "long"])
def test_texts_in_other_forms(server: ChatServer, manner: str) -> None:
    server.be(always=manner, latency_s=0)
    (answer,) = captioner(server).caption(asks(1))
    assert answer.text.endswith("of Describe it.")
    assert answer.text.startswith("a drawing")
    assert answer.flags == (("cut_at_max_length",) if manner == "long" else ())


def test_the_digest_is_of_what_decides_texts() -> None:
    def digest(**options: Any) -> str:
        return captioner("http://here/v1", **options).digest

    same = digest(max_in_flight=3, timeout_s=3, key_variable="K", answers_as=["x"], budget={"requests": 3})
    assert digest() == same == captioner("https://there:1/v1/", "http://more/v1").digest
    others: list[dict[str, Any]] = [
        {"model": "x"},
        {"temperature": 1},
        {"max_tokens": 9},
        {"extra": {"a": 1}},
        {"revision": "2"},
    ]
    assert len({digest(), *(digest(**other) for other in others)}) == 6


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"urls": []}, "urls: "),
        ({"urls": ["localhost:8000"]}, "urls: 'localhost:8000' is no URL; write https://HOST/v1"),
        ({"urls": ["https://me:sk-secret-key@host/v1"]}, "urls: host: no key belongs in a URL; set key_variable"),
        ({"urls": ["http://h/v1/chat/completions"]}, "urls: http://h/v1/chat/completions: leave /chat/completions out"),
        ({"key_variable": KEY}, "key_variable: it is the name of an environment variable, such as OPENAI_API_KEY"),
        ({"max_token": 3}, "max_token: unknown option; did you mean max_tokens?"),
        ({"budget": {"requests": -1}}, "budget.requests: must be at least 0 (got -1)"),
        ({"max_in_flight": 0}, "max_in_flight: must be at least 1 (got 0)"),
    ],
)
def test_wrong_options_are_said_in_a_line_each(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        EndpointCaptioner({"urls": ["http://h/v1"], "model": "m", **options})
    (mistake,) = wrong.value.mistakes
    assert mistake.startswith(line)
    assert KEY not in mistake
