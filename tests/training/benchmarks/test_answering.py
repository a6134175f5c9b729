"""VQA: answers equal to transformers', ranking equal to brute force, accuracy equal to a plain reference."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from blip_bootstrap.config import Config
from blip_bootstrap.errors import InputError
from blip_training.benchmarks.evaluate_on import evaluate_on, measure
from blip_training.benchmarks.vqa_accuracy import normalise_official, official_accuracy
from blip_training.checkpoint.store import load_vqa, save_vqa
from blip_training.data.tokenizer import Tokenizer
from tests.support.benchmark_files import write_json, write_lines, write_vqav2
from tests.support.tiny_med import normalised_of, read_by
from tests.support.tiny_vqa import WORDS, tiny_vqa

LIST = ["w7 w8 w9", "w7", "w1 w2", "w3", "w40 w2"]


def config(**changes: Any) -> Config:
    return Config.model_validate({"benchmark": {"device": "cpu", "batch_size": 5} | changes})


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(WORDS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """Peaked, and with answers of several lengths."""
    folder, vqa = tmp_path_factory.mktemp("vqa"), tiny_vqa(tokenizer)
    with torch.no_grad():
        vqa.text.lm_head.transform.weight.mul_(3)
        for layer in vqa.text.each_layer():
            layer.cross_attention.of("causal").output.weight.mul_(5)
    save_vqa(folder, vqa, tokenizer)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("vqav2")
    return root, *write_vqav2(root)


def plain_accuracy(said: str, people: list[str]) -> float:
    """The formula as it is written: for each person, the others who agree."""
    found = [min(1.0, sum(o == said for j, o in enumerate(people) if j != i) / 3) for i in range(len(people))]
    return sum(found) / len(found)


@torch.no_grad()
def test_accuracy_is_that_of_transformers_answers(model: Path, data: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import BlipForQuestionAnswering

    root, questions, _, pixels = data
    theirs: Any = read_by(BlipForQuestionAnswering, model)
    normalised = normalised_of(load_vqa(model)[0], pixels)
    expected = []
    for i, question in enumerate(questions):
        ids, mask = tokenizer.encode([question], 35, "[ENC]")
        row = theirs.generate(
            ids, normalised[i : i + 1], mask, do_sample=False, num_beams=3, min_length=1, max_length=10
        )
        expected.append(tokenizer.decode(row[0].tolist()))
    rng = random.Random(3)
    people = [[text if rng.random() < 0.3 else "w59" for _ in range(10)] for text in expected]
    annotations = [
        {
            "question_id": 7000 + i, "answer_type": ("yes/no", "other")[i % 2],
            "answers": [{"answer": text, "answer_id": n} for n, text in enumerate(own)],
        }
        for i, own in enumerate(people)
    ]  # fmt: skip
    for name in ("v2_OpenEnded_mscoco_val2014_questions.json", "val2014"):
        (tmp_path / name).symlink_to(root / name)
    write_json(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    found = measure(model, "vqav2", tmp_path, config(), tmp_path / "out")
    written = Path(found["path"]).with_name("vqa.jsonl").read_text()
    assert re.findall(r'"answer": "(.*?)"', written) == expected
    each = [plain_accuracy(text, own) for text, own in zip(expected, people, strict=True)]
    assert found["figures"] == pytest.approx(
        {
            "accuracy": sum(each) / 12,
            "accuracy_yes_no": sum(each[::2]) / 6,
            "accuracy_other": sum(each[1::2]) / 6,
        }
    )
    assert 0 < found["figures"]["accuracy"] < 1


@torch.no_grad()
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_rank_takes_the_answer_of_least_cost(
    model: Path, data: Any, tokenizer: Tokenizer, tmp_path: Path, smoothing: float
) -> None:
    root, questions, _, pixels = data
    vqa, _ = load_vqa(model)
    expected = []
    for i, question in enumerate(questions):
        ids, mask = tokenizer.encode([question], 35)
        read = vqa.read_questions(vqa.encode_image(pixels[i : i + 1]), ids, mask)
        costs = []
        for text in LIST:
            ids, mask = tokenizer.encode([text], 10)
            logits = vqa.lm_logits(vqa.answer_states(read, None, ids, mask))[0, :-1].double().log_softmax(-1)
            right = logits.gather(1, ids[0, 1:, None]).sum()
            costs.append(float(-(1 - smoothing) * right - smoothing * logits.mean(1).sum()))
        expected.append(LIST[costs.index(min(costs))])
    assert len(set(expected)) > 1
    (tmp_path / "list.txt").write_text("\n".join(LIST))
    how = config(mode="rank", answers=str(tmp_path / "list.txt"), rank_smoothing=smoothing)
    found = measure(model, "vqav2", root, how, tmp_path / "out")
    written = Path(found["path"]).with_name("vqa.jsonl").read_text()
    assert re.findall(r'"answer": "(.*?)"', written) == expected


def test_rank_wants_a_list(model: Path, data: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"answer_list\.json: not there; mode rank chooses from a list of answers"):
        evaluate_on(model, "vqav2", data[0], config(mode="rank"))


def test_batches_change_nothing_and_our_own_list_gives_the_same(model: Path, data: Any, tmp_path: Path) -> None:
    root, questions, answers, _ = data
    one = evaluate_on(model, "vqav2", root, config())
    assert evaluate_on(model, "vqav2", root, config(batch_size=64)) == one
    rows = [
        {"image": f"val2014/COCO_val2014_{i % 4:012d}.jpg", "question": q, "answers": Counter(own)}
        for i, (q, own) in enumerate(zip(questions, answers, strict=True))
    ]
    file = write_lines(tmp_path / "mine.jsonl", rows)
    mine = evaluate_on(model, "questions", file, config(image_root=str(root)))
    assert mine == {"accuracy": pytest.approx(one["accuracy"])}
    shipped = [
        {"question_id": i, "question": row["question"], "answer": own, "image": row["image"], "dataset": "vqa"}
        for i, (row, own) in enumerate(zip(rows, answers, strict=True))
    ]
    write_json(tmp_path / "vqa_val.json", shipped)
    assert evaluate_on(model, "vqav2", tmp_path, config(image_root=str(root))) == mine


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        ("The Dog.", "dog"),
        ("two", "2"),
        ("None", "0"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("ice-cream", "ice cream"),
        ("yes, it is", "yes it is"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),
        ("yall'd've", "y'all'd've"),
        ("ow's'at", "'ow's'at"),
        ("somebody'd", "somebodyd"),
        ("its", "its"),
        ("eleven", "eleven"),
        ("a  an the", ""),
        ("black/white", "black white"),
        ("what?", "what "),
    ],
)
def test_answers_are_normalised_as_the_official_evaluation_does(answer: str, normalised: str) -> None:
    assert normalise_official(answer) == normalised.strip()


def test_the_official_accuracy_is_the_mean_over_leaving_each_person_out() -> None:
    people = ["dog"] * 2 + ["a dog"] + ["cat"] * 4 + ["2"] * 2 + ["Two"]
    plain = ["dog"] * 3 + ["cat"] * 4 + ["2"] * 3
    for said, as_compared in (("dog", "dog"), ("The cat", "cat"), ("two", "2"), ("bird", "bird")):
        assert official_accuracy(said, Counter(people)) == pytest.approx(plain_accuracy(as_compared, plain))
    assert official_accuracy("cat", Counter(people)) == 1.0
    assert official_accuracy("dog", Counter(people)) == pytest.approx((3 * 2 / 3 + 7) / 10)


def test_where_all_people_said_the_same_nothing_is_normalised() -> None:
    assert official_accuracy("The dog", {"dog": 10}) == 0.0
    assert official_accuracy("Dog ", {"dog": 10}) == 1.0
    assert official_accuracy("two", {"2": 9, "3": 1}) == pytest.approx(1.0)


def test_one_person_is_right() -> None:
    assert official_accuracy("A dog", {"dog": 1}) == 1.0
    assert official_accuracy("cat", {"dog": 1}) == 0.0
