"""Questions from JSON lines, each mistake in one line; batches that no restart and no worker changes."""

from __future__ import annotations

import gzip
import io
import json
import random
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from blip_bootstrap.config import VqaConfig
from blip_bootstrap.errors import InputError
from blip_training.data.questions import read_questions
from blip_training.feed.feed import Feed
from blip_training.feed.question_batches import VqaBatch, VqaData
from tests.support.drawn import draw


def write(file: Path, *rows: Any) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_answers_are_counted(tmp_path: Path) -> None:
    rows = [
        {"image": "a.jpg", "question": " what  is it? ", "answers": ["a cat", "a  cat", "dog"]},
        {"image": "b.jpg", "question": "how many?", "answers": {"2": 6, "3": 2}, "more": 1},
        {"image": "c.jpg", "question": "is it?", "answers": "yes"},
    ]
    first, second, third = read_questions(write(tmp_path / "q.jsonl", *rows))
    assert (first.image, first.text, first.answers) == (tmp_path / "a.jpg", "what is it?", {"a cat": 2, "dog": 1})
    assert second.weights == {"2": 0.75, "3": 0.25}
    assert third.answers == {"yes": 1}
    elsewhere = read_questions(tmp_path / "q.jsonl", tmp_path / "pictures")
    assert elsewhere[0].image == tmp_path / "pictures" / "a.jpg"


def test_questions_without_answers_can_be_asked_but_not_learned(tmp_path: Path) -> None:
    file = write(tmp_path / "q.jsonl", {"image": "a.jpg", "question": "what?"})
    assert read_questions(file, answered=False)[0].answers == {}
    with pytest.raises(InputError, match=r"q\.jsonl: line 1: no answers; each line is"):
        read_questions(file)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"image": "a.jpg", "question"', r"line 2 is not a JSON object"),
        ("[1]", r"line 2 is not a JSON object"),
        ('{"question": "what?", "answers": ["a"]}', r"line 2: image is nothing, a text was expected"),
        (
            '{"image": "a.jpg", "question": [3], "answers": ["a"]}',
            r"line 2: question is a list of 1, a text was expected",
        ),
        ('{"image": "a.jpg", "question": NaN, "answers": ["a"]}', r"line 2: question is 'nan', a text was expected"),
        ('{"image": {"path": "a.jpg"}, "question": "q", "answers": ["a"]}', r"line 2: image is a mapping, a text was"),
        ('{"image": "a.jpg", "question": "what?", "answers": [[1]]}', r"line 2: an answer is a list of 1, a text was"),
        ('{"image": "a.jpg", "question": "what?", "answers": [true]}', r"line 2: an answer is true, a text was"),
        ('{"image": "a.jpg", "question": "what?", "answers": {"a": 0}}', r"line 2: the answers' counts are no numbers"),
        ('{"image": "a.jpg", "question": "what?", "answers": {"a": "b"}}', r"line 2: the answers' counts are no"),
        ('{"image": "a.jpg", "question": "what?", "answers": [" ", null, NaN]}', r"line 2: no answers"),
        ('{"image": "a.jpg", "question": "%s", "answers": ["a"]}' % ("x" * 10_001), r"question has 10,001 characters"),
        ("[" * 100_000, r"line 2 is not a JSON object"),
    ],
)
def test_a_bad_row_is_one_line(tmp_path: Path, line: str, said: str) -> None:
    file = write(tmp_path / "q.jsonl", {"image": "a.jpg", "question": "what?", "answers": ["a"]})
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(InputError, match=said) as caught:
        read_questions(file)
    assert "\n" not in str(caught.value)


def test_texts_hold_any_separator_and_numbers_are_texts(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(
        '{"image": "a.jpg", "question": "what\u2028colour\u0085is it", "answers": ["r\u2029ed", 2, 1.5, null, NaN]}\n'
        '{"image": 5, "question": 3, "answers": 2}',
        encoding="utf-8",
    )
    first, second = read_questions(file)
    assert (first.text, first.answers) == ("what colour is it", {"r ed": 1, "2": 1, "1.5": 1})
    assert (second.image, second.text, second.answers) == (tmp_path / "5", "3", {"2": 1})


def test_arrays_compressed_files_and_parquet(tmp_path: Path) -> None:
    rows = [{"image": "a.jpg", "question": f"q{i}", "answers": ["a", "b"]} for i in range(3)]
    (tmp_path / "q.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "q.jsonl.gz").write_bytes(gzip.compress(write(tmp_path / "q.jsonl", *rows).read_bytes()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    for name in ("q.json", "q.jsonl.gz", "q.jsonl", "q.parquet"):
        read = read_questions(tmp_path / name)
        assert [(one.text, one.answers) for one in read] == [(f"q{i}", {"a": 1, "b": 1}) for i in range(3)]


def test_a_column_of_another_name_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no column 'image'.*did you mean file_name\? Name it image"):
        read_questions(write(tmp_path / "q.jsonl", {"file_name": "a.jpg", "question": "what?", "answers": ["a"]}))


def test_no_file_and_no_question(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_questions(tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="no question in it"):
        read_questions(tmp_path / "empty.jsonl")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Ten questions about three pictures, the last with two answers each."""
    rng = random.Random(0)
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(draw("red", "circle", rng))
    return write(
        tmp_path / "q.jsonl",
        *(
            {"image": f"{'abc'[i % 3]}.jpg", "question": f"q{i}", "answers": ["x", "y"][: 1 + i // 5]}
            for i in range(10)
        ),
    )


def rows_of(batches: list[VqaBatch]) -> list[tuple[str, list[tuple[str, float]], list[int]]]:
    """Every question with its weighted answers and its pixels."""
    rows = []
    for batch in batches:
        for at, question in enumerate(batch.questions):
            own = (batch.question_of_answer == at).nonzero()[:, 0].tolist()
            answers = [(batch.answers[i], float(batch.weights[i])) for i in own]
            rows.append((question, answers, batch.images[at].flatten()[::97].tolist()))
    return rows


@pytest.mark.parametrize("augment", ["none", "randaugment"])
def test_workers_and_accumulation_deal_out_the_same_questions(file: Path, augment: Any) -> None:
    questions = read_questions(file)

    def steps(start: int, stop: int, **changes: Any) -> list[list[VqaBatch]]:
        feed = Feed(batch_size=4, image_size=32, seed=3, augment=augment, **changes)
        return list(VqaData(questions, feed).steps(start, stop))

    whole = [rows_of(batches) for batches in steps(0, 5)]
    assert [rows_of(batches) for batches in steps(3, 5)] == whole[3:]
    assert [len(batches) for batches in steps(0, 1, accumulate=2)] == [2]
    assert [rows_of(batches) for batches in steps(0, 5, accumulate=2)] == whole
    halves = [steps(0, 5, world=2, rank=rank) for rank in (0, 1)]
    assert [rows_of(first) + rows_of(second) for first, second in zip(*halves, strict=True)] == whole
    epochs = [row[0] for step in whole for row in step]
    assert sorted(epochs[:10]) == sorted(epochs[10:]) == [f"q{i}" for i in range(10)]
    assert epochs[:10] != epochs[10:]


def test_answers_carry_their_share(file: Path) -> None:
    feed = Feed(batch_size=10, image_size=32, seed=0)
    (batch,) = next(VqaData(read_questions(file), feed).steps(0, 1))
    assert len(batch.answers) == 15
    torch.testing.assert_close(torch.zeros(10).index_add(0, batch.question_of_answer, batch.weights), torch.ones(10))


@pytest.mark.parametrize("augment", ["none", "randaugment"])
def test_a_missing_or_broken_picture_names_the_question(
    tmp_path: Path, augment: Literal["none", "randaugment"]
) -> None:
    """One line that names file and question, without Python's inner names, and says what to do."""
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    picture = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(picture, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(picture.getvalue()[:-900])
    unknown, cut = "cannot be decoded (not_an_image: no", "cannot be decoded (truncated_image: JPEG: image file is"
    for name, said in (("absent.jpg", "cannot be read"), ("bad.jpg", unknown), ("cut.jpg", cut)):
        questions = read_questions(write(tmp_path / "q.jsonl", {"image": name, "question": "?", "answers": ["a"]}))
        data = VqaData(questions, Feed(batch_size=1, image_size=32, seed=0, augment=augment))
        with pytest.raises(InputError) as raised:
            next(data.steps(0, 1))
        message = str(raised.value)
        assert message.startswith(f"{tmp_path}/q.jsonl: line 1: {tmp_path}/{name}: ")
        assert said in message
        assert "BytesIO" not in message
        assert "\n" not in message
        assert ("replace the file" in message) == (name != "absent.jpg")


def test_an_epochs_order_is_drawn_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[object] = []
    generator = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: drawn.append(seed) or generator(seed))
    feed = Feed(batch_size=4, image_size=32, seed=3)
    steps = VqaData(read_questions(file), feed).steps(0, 10)  # four epochs of ten questions
    asked = [text for (batch,) in steps for text in batch.questions]
    assert drawn == [(3, epoch) for epoch in range(4)]
    assert all(len(set(asked[start : start + 10])) == 10 for start in range(0, 40, 10))


@pytest.mark.parametrize("augment", ["none", "randaugment"])
def test_pictures_are_seen_as_they_are_displayed(tmp_path: Path, augment: Literal["none", "randaugment"]) -> None:
    """One lying on its side, one that is transparent and one of 16 bits, each beside its plain twin."""
    grey = np.linspace(0, 65_535, 64 * 48).reshape(48, 64).astype(np.uint16)
    noise = Image.effect_noise((64, 48), 60).convert("RGB")
    veil = Image.linear_gradient("L").resize((64, 48))
    veiled = noise.copy()
    veiled.putalpha(veil)
    on_white = Image.new("RGBA", (64, 48), "white")
    on_white.alpha_composite(veiled)
    lying = Image.Exif()
    lying[0x0112] = 6
    noise.save(tmp_path / "a-lying.png", exif=lying)
    noise.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "a.png")
    veiled.save(tmp_path / "b-veiled.png")
    on_white.convert("RGB").save(tmp_path / "b.png")
    Image.fromarray(grey).save(tmp_path / "c-deep.png")
    Image.fromarray(np.rint(grey / 257).astype(np.uint8)).save(tmp_path / "c.png")
    for one, twin in (("a-lying", "a"), ("b-veiled", "b"), ("c-deep", "c")):
        seen = []
        for name in (one, twin):
            file = write(tmp_path / "q.jsonl", {"image": f"{name}.png", "question": "?", "answers": ["yes"]})
            feed = Feed(batch_size=1, image_size=32, seed=0, augment=augment)
            seen.append(next(VqaData(read_questions(file), feed).steps(0, 1))[0].images)
        assert torch.equal(*seen)


def test_what_decoding_may_cost_is_a_setting(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "large.png")
    file = write(tmp_path / "q.jsonl", {"image": "large.png", "question": "?", "answers": ["yes"]})
    feed = Feed(batch_size=1, image_size=32, seed=0)
    assert next(VqaData(read_questions(file), feed, VqaConfig(max_pixels=64 * 48)).steps(0, 1))
    with pytest.raises(
        InputError, match=r"line 1: .*large.png: .*too_many_pixels: 64 x 48 pixels by its header; at most 3,071"
    ):
        next(VqaData(read_questions(file), feed, VqaConfig(max_pixels=64 * 48 - 1)).steps(0, 1))
