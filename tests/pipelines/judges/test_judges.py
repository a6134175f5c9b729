"""Built-in judges: their figures against transformers and this project's engine called plainly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blip_bootstrap.config import JudgeConfig
from blip_bootstrap.errors import CheckpointError, ConfigError
from blip_pipelines.captioners.conformance import FAILED, PASSED
from blip_pipelines.judges.conformance import CHECKS, assert_conforms, check_judge
from blip_pipelines.judges.endpoint import EndpointVqaJudge, share_of_yes
from blip_pipelines.judges.interface import Pair
from blip_pipelines.judges.registry import BUILT_IN, KINDS, make_judge, mistakes_of, names_of_judges
from blip_pipelines.judges.yes_or_no import QUESTION
from blip_training.checkpoint.store import load_med
from blip_training.data.normalise import captions_as_seen
from blip_training.data.pixels import to_pixels
from tests.support import captioners, tiny_scorers
from tests.support.chat_server import ChatServer

TEXTS = ["a dog", "the red cat", "this image", "a"]


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    rng = np.random.default_rng(0)
    sizes = [(40, 50), (64, 64), (33, 90)]
    pictures = [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for h, w in sizes]
    return [(pictures[at], text) for at, text in zip([0, 0, 1, 2], TEXTS, strict=True)]


def loaded(kind: str, **options: Any) -> Any:
    judge = make_judge(kind, options)
    judge.load("cpu", "float32")
    return judge


def test_a_siglip2_gives_the_logits_of_transformers(tmp_path: Path, pairs: list[Pair]) -> None:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    folder = tiny_scorers.save_siglip2(tmp_path / "siglip2")
    found = [one["logit"] for one in loaded("dual_encoder", checkpoint=str(folder), score="logit").score(pairs)]
    model: Any = AutoModel.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for (picture, text), logit in zip(pairs, found, strict=True):
        ids = tokenizer([text], padding="max_length", truncation=True, max_length=12, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            plain = model(input_ids=ids, **processor(images=[picture], return_tensors="pt")).logits_per_image
        assert logit == pytest.approx(float(plain), rel=1e-4, abs=1e-4)
    cosines = [one["cosine"] for one in loaded("dual_encoder", checkpoint=str(folder)).score(pairs)]
    assert all(-1 <= cosine <= 1 for cosine in cosines)
    with pytest.raises(CheckpointError, match="a scorer's is one of"):
        loaded("dual_encoder", checkpoint=str(captioners.save_blip2(tmp_path / "blip2")))


@pytest.mark.parametrize("name", ["qwen", "smolvlm"])
def test_vqa_score_is_the_share_of_yes_after_the_chat_template(tmp_path: Path, pairs: list[Pair], name: str) -> None:
    if name == "smolvlm":
        pytest.importorskip("num2words")
    folder = captioners.SAVED[name](tmp_path / name)
    judge = loaded("vqa_score", checkpoint=str(folder), one_by_one=True)
    found = [one["yes"] for one in judge.score(pairs)]
    reader = judge._reader
    vocabulary = reader._tokenizer.get_vocab()
    for (picture, text), score in zip(pairs, found, strict=True):
        content = [{"type": "image"}, {"type": "text", "text": QUESTION.replace("{text}", text)}]
        message = {"role": "user", "content": content}
        worded = reader._processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        given = reader._processor(images=[[picture]], text=[worded], return_tensors="pt")
        with torch.inference_mode():
            told = reader._model(**{k: v for k, v in given.items() if torch.is_tensor(v)}).logits[0, -1].softmax(-1)
        yes, no = (sum(float(told[vocabulary[one]]) for one in words) for words in (("yes", "Yes"), ("no", "No")))
        assert score == pytest.approx(yes / (yes + no), abs=1e-5)
    assert len({round(score, 4) for score in found}) == len(pairs)
    together = [one["yes"] for one in loaded("vqa_score", checkpoint=str(folder)).score(pairs)]
    assert together == pytest.approx(found, abs=1e-5)


def test_a_vqa_judge_whose_tokenizer_has_no_yes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captioners, "WORDS", ["a", "no"])
    folder = captioners.save_qwen(tmp_path / "qwen")
    with pytest.raises(CheckpointError, match="its tokenizer has no token for yes"):
        loaded("vqa_score", checkpoint=str(folder))


def test_blip_judges_are_the_engines_own(models: tuple[Path, Path], pairs: list[Pair]) -> None:
    med, tokenizer = load_med(models[1], torch.device("cpu"))
    itm, itc = (loaded(f"blip_{name}", checkpoint=str(models[1])).score(pairs) for name in ("itm", "itc"))
    for (picture, text), match, cosine in zip(pairs, itm, itc, strict=True):
        ids, mask = tokenizer.encode(captions_as_seen(med.config.text, [text]), med.config.text.max_tokens)
        with torch.inference_mode():
            states = med.encode_image(to_pixels(picture, med.config.vision.image_size)[None])
            expected = float(med.match(states, ids, mask).softmax(1)[0, 1]), float(med.cosines(states, ids, mask)[0])
        assert (match["itm"], cosine["itc"]) == pytest.approx(expected, abs=1e-5)


def test_an_endpoints_share_of_yes() -> None:
    assert share_of_yes({" Yes": 0.3, "yes": 0.3, "No": 0.2, "maybe": 0.2}) == pytest.approx(0.75)
    assert share_of_yes({"NO": 0.5}) == 0
    assert share_of_yes({"perhaps": 1.0}) is None
    judge = EndpointVqaJudge({"urls": ["http://here/v1"], "model": "m"})
    assert judge.varies_with == "server"
    assert judge.digest != EndpointVqaJudge({"urls": ["http://here/v1"], "model": "n"}).digest
    assert math.isclose(share_of_yes({"yes": 1e-9, "no": 1e-9}) or 0, 0.5)


def test_an_endpoint_that_refuses_gives_its_reason() -> None:
    with ChatServer() as server:
        server.be(first=["ok", "refusal"], yes=0.6, latency_s=0)
        judge = EndpointVqaJudge({"urls": [server.url], "model": "tiny", "max_tries": 2, "max_in_flight": 1})
        found = judge.score([(Image.new("RGB", (8, 8), (at, 0, 0)), "a dog") for at in range(3)])
        judge.close()
    scores = [one["yes"] for one in found]
    assert sorted(score is None for score in scores) == [False, False, True]
    assert found[scores.index(None)].error == "refused"
    assert max(score for score in scores if score is not None) == pytest.approx(0.6 / (0.6 + 0.35))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("dual_encoder", "siglip2"), ("vqa_score", "qwen"), ("blip_itm", ""), ("blip_itc", "")],
)
def test_built_in_judges_conform(kind: str, name: str, tmp_path: Path, models: tuple[Path, Path]) -> None:
    saved = tiny_scorers.SAVED | captioners.SAVED
    folder = saved[name](tmp_path / name) if name else models[1]
    outcomes = {one.check: one.outcome for one in assert_conforms(kind, {"checkpoint": str(folder)})}
    assert set(outcomes) == set(CHECKS)
    weaker = {"same at any batch size", "same in any order"} if kind == "vqa_score" else set()
    assert {name for name, outcome in outcomes.items() if outcome != PASSED} == weaker


@pytest.mark.usefixtures("registered")
def test_a_broken_promise_is_found() -> None:
    outcomes = {one.check: one for one in check_judge("drifting", {})}
    assert outcomes["same at any batch size"].outcome == FAILED
    assert outcomes["same at any batch size"].told == "by 1, first of pair 1 is 0.0 instead of 1.0"
    assert outcomes["same in any order"].outcome == FAILED
    assert outcomes["scores each pair"].outcome == PASSED
    with pytest.raises(AssertionError, match="judge drifting: same at any batch size"):
        assert_conforms("drifting", {})
    assert {one.outcome for one in assert_conforms("plain", {})} <= {PASSED, "not promised"}


@pytest.mark.usefixtures("registered")
def test_names_and_mistakes_are_told_by_the_setting() -> None:
    def one(name: str, kind: str = "plain", **options: Any) -> JudgeConfig:
        return JudgeConfig(name=name, kind=kind, options=options)

    assert names_of_judges([one("a"), one("b", "one")]) == ["a_first", "a_second", "b"]
    assert mistakes_of([one("a"), one("b", "one")]) == []
    assert KINDS.digest([one("a")]) != KINDS.digest([one("a", salt="x")])
    told = mistakes_of([one("a", "plian"), one("b", wrong=1), one("itm", "one"), one("a_first", "one"), one("a")])
    assert told == [
        "caption.judges.a: kind: there is no judge 'plian'; did you mean plain? (there are "
        f"{', '.join(sorted({*BUILT_IN, 'plain', 'one', 'drifting'}))})",
        "caption.judges.b: options.wrong: there is no such option",
        "caption.judges.itm: itm is the name of a score or column that is always there; call it otherwise",
        "caption.judges.a: a_first is the name of a score of caption.judges.a_first; call it otherwise",
    ]
    with pytest.raises(ConfigError, match=r"options\.score"):
        make_judge("dual_encoder", {"checkpoint": "a/b", "score": "best"})
    with pytest.raises(ConfigError, match=r"options\.question: .*\{text\} must stand in it"):
        make_judge("vqa_score", {"checkpoint": "a/b", "question": "Does it fit?"})
