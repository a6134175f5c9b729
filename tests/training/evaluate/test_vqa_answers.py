"""Answers: parity with transformers' generate, ranking against brute force, and VQA accuracy by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from blip_bootstrap.config import VqaConfig
from blip_bootstrap.errors import InputError
from blip_training.checkpoint.store import save_vqa
from blip_training.data.normalise import set_normalise
from blip_training.data.questions import Question
from blip_training.data.tokenizer import Tokenizer
from blip_training.evaluate.vqa_answers import answer_figures, answer_questions, normalise_answer, rank, vqa_accuracy
from blip_training.model.vqa import Vqa
from tests.support.tiny_med import normalised_of
from tests.support.tiny_vqa import WORDS, some_pixels, tiny_vqa

CONFIG = VqaConfig(answer_batch_size=8)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(WORDS)


@pytest.fixture(scope="module")
def vqa(tokenizer: Tokenizer) -> Vqa:
    """Peaked, and with answers of several lengths."""
    vqa = tiny_vqa(tokenizer)
    with torch.no_grad():
        vqa.text.lm_head.transform.weight.mul_(3)
        for layer in vqa.text.each_layer():
            layer.cross_attention.of("causal").output.weight.mul_(5)
    return vqa


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    """Twenty questions of four lengths about five pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, pixels in enumerate(some_pixels(5)):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    texts = [" ".join(f"w{(7 * i + j) % 60}" for j in range(1 + i % 4)) for i in range(20)]
    return [Question(folder / f"{i % 5}.png", text) for i, text in enumerate(texts)]


@torch.no_grad()
@pytest.mark.parametrize("num_beams", [1, 3])
def test_written_answers_are_those_of_transformers_token_for_token(
    tmp_path: Path, vqa: Vqa, tokenizer: Tokenizer, questions: list[Question], num_beams: int
) -> None:
    from transformers import BlipForQuestionAnswering

    save_vqa(tmp_path, vqa, tokenizer)
    theirs: Any = BlipForQuestionAnswering.from_pretrained(tmp_path).eval()
    config = CONFIG.model_copy(update={"num_beams": num_beams})
    ours = answer_questions(vqa, tokenizer, questions, config)
    pixels = normalised_of(vqa, some_pixels(5))
    expected = []
    for i, question in enumerate(questions):  # one at a time: transformers' generate looks at a question's padding
        ids, mask = tokenizer.encode([question.text], 30, "[ENC]")
        row = theirs.generate(
            ids, pixels[i % 5 : i % 5 + 1], mask, do_sample=False, num_beams=num_beams, min_length=1, max_length=10
        )
        expected.append(tokenizer.decode(row[0].tolist()))
    assert [answer.text for answer in ours] == expected
    assert len({answer.text for answer in ours}) > 5
    assert len({len(answer.text.split()) for answer in ours}) > 1


@torch.no_grad()
def test_ranked_answers_are_those_of_brute_force(vqa: Vqa, tokenizer: Tokenizer, questions: list[Question]) -> None:
    answers = ["w1 w2 w3", "w40 w41", "w5 w6 w7 w8", *(f"w{i} w{59 - i}" for i in range(60))]
    found = answer_questions(vqa, tokenizer, questions, CONFIG, "rank", answers)
    pixels = some_pixels(5)
    for i, (question, answer) in enumerate(zip(questions, found, strict=True)):
        ids, mask = tokenizer.encode([question.text], 30)
        read = vqa.read_questions(vqa.encode_image(pixels[i % 5 : i % 5 + 1]), ids, mask)
        logprobs = {}
        for text in answers:
            own, own_mask = tokenizer.encode([text], 10, "[DEC]")
            rows = vqa.lm_logits(vqa.answer_states(read, None, own, own_mask))[0].log_softmax(-1)
            logprobs[text] = sum(float(rows[at, token]) for at, token in enumerate(own[0, 1:]))
        best = max(logprobs, key=logprobs.__getitem__)
        assert answer.text == best
        assert answer.logprob == pytest.approx(logprobs[best], abs=1e-4)
    assert len({answer.text for answer in found}) > 1


@torch.no_grad()
def test_only_the_answers_with_the_likeliest_first_tokens_are_compared(
    vqa: Vqa, tokenizer: Tokenizer, questions: list[Question]
) -> None:
    pixels = some_pixels(2)
    ids, mask = tokenizer.encode(["w3 w4", "w5 w6"], 30)
    read = vqa.read_questions(vqa.encode_image(pixels), ids, mask)
    answers = [f"w{i} w{60 - i - 1}" for i in range(0, 60, 2)]
    answer_ids, answer_mask = tokenizer.encode(answers, 10, "[DEC]")
    for row, (chosen, logprob) in enumerate(rank(vqa, read, answer_ids, answer_mask, top_k=2)):
        first = vqa.decode(read[row : row + 1], answer_ids[:1, :1], answer_mask[:1, :1])[0, 0].log_softmax(-1)
        two = first[answer_ids[:, 1]].topk(2).indices.tolist()
        whole = rank(vqa, read[row : row + 1], answer_ids[two], answer_mask[two], top_k=2)[0]
        assert two[whole[0]] == chosen
        assert logprob == pytest.approx(whole[1], abs=1e-4)


def test_an_answer_depends_on_its_question_alone(vqa: Vqa, tokenizer: Tokenizer, questions: list[Question]) -> None:
    together = answer_questions(vqa, tokenizer, questions, CONFIG)
    alone = answer_questions(vqa, tokenizer, questions, CONFIG.model_copy(update={"answer_batch_size": 1}))
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.logprob for answer in together] == pytest.approx([answer.logprob for answer in alone], abs=1e-4)


def test_what_cannot_be_answered(vqa: Vqa, tokenizer: Tokenizer, tmp_path: Path) -> None:
    missing = Question(tmp_path / "absent.jpg", "w1", where="questions.jsonl: line 4")
    with pytest.raises(InputError, match=r"questions\.jsonl: line 4: .*absent\.jpg: cannot be read"):
        answer_questions(vqa, tokenizer, [missing], CONFIG)
    with pytest.raises(InputError, match="rank needs a list of answers"):
        answer_questions(vqa, tokenizer, [missing], CONFIG, "rank")
    assert answer_questions(vqa, tokenizer, [], CONFIG) == []


def test_accuracy_counts_the_people_who_agree() -> None:
    given = {"red": 6, "dark red": 2, "the red": 1, "pink": 1}
    assert vqa_accuracy("red", given) == 1
    assert vqa_accuracy("Dark red.", given) == pytest.approx(2 / 3)
    assert vqa_accuracy("a pink", given) == pytest.approx(1 / 3)
    assert vqa_accuracy("green", given) == 0
    assert vqa_accuracy("2", {"two": 1}) == 1
    assert vqa_accuracy("two", {"2": 1, "3": 1}) == 0.5
    assert normalise_answer("It's a  T-shirt!") == "its t shirt"


def test_figures_beside_the_most_common_answer(tmp_path: Path) -> None:
    given = [{"yes": 3}, {"yes": 2, "no": 1}, {"no": 3}, {}]
    questions = [Question(tmp_path, "w1", answers) for answers in given]
    figures = answer_figures(questions, ["yes", "no", "no", "yes"])
    assert figures["questions"] == 4
    assert figures["answered_by_people"] == 3
    assert figures["accuracy"] == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert figures["accuracy_of_most_common"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_questions_are_seen_as_the_model_was_trained_on_them(tmp_path: Path) -> None:
    tokenizer = Tokenizer([*WORDS, "(", ")", "!"])
    vqa = tiny_vqa(tokenizer)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    found = {}
    for how in ("none", "blip"):
        set_normalise(vqa, how)
        for text in ("(W3) w4!", "w3 w4"):
            (found[how, text],) = answer_questions(vqa, tokenizer, [Question(tmp_path / "red.png", text)], CONFIG)
    plain = found["none", "w3 w4"]
    assert found["blip", "(W3) w4!"] == found["blip", "w3 w4"] == plain
    assert found["none", "(W3) w4!"] != plain
