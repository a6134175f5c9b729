"""Lists that are not as their publishers ship them: one line that says where, or the same figures; never others."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.config import BenchmarkConfig
from blip_bootstrap.errors import InputError
from blip_training.benchmarks.evaluate_on import Data, read_data
from blip_training.benchmarks.names import benchmark_of
from blip_training.benchmarks.places import digest_of_data
from tests.support.benchmark_files import picture, write_frames, write_json, write_lines, write_vqav2


def data_of(name: str, root: Path, **changes: Any) -> Data:
    return read_data(benchmark_of(name), root, BenchmarkConfig(**changes))


def read(name: str, root: Path, **changes: Any) -> list[Any]:
    return list(data_of(name, root, **changes).items)


def told(name: str, root: Path, **changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(name, root, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SHIPPED: dict[str, tuple[str, str, Any]] = {
    "karpathy": (
        "coco", "dataset_coco.json",
        {"images": [{"filepath": "", "filename": "1.jpg", "split": "test", "sentences": [{"raw": "a"}, {"raw": "b"}]}]},
    ),
    "blip": ("coco", "coco_karpathy_test.json", [{"image": "1.jpg", "caption": ["a", "b"]}]),
    "nocaps": (
        "nocaps", "nocaps_val_4500_captions.json",
        {
            "images": [{"id": 3, "file_name": "1.jpg", "domain": "in-domain"}],
            "annotations": [{"image_id": 3, "caption": "a"}],
        },
    ),
    "vqa_val": ("vqav2", "vqa_val.json", [{"image": "1.jpg", "question": "q", "answer": ["a", "b"], "question_id": 4}]),
    "nlvr2": ("nlvr2", "nlvr_test.json", [{"images": ["1.jpg", "1.jpg"], "sentence": "s", "label": "True"}]),
    "test1": ("nlvr2", "test1.json", [{"identifier": "test1-0-0-0", "sentence": "s", "label": "True"}]),
    "msrvtt": ("msrvtt", "test_videodatainfo.json", {"sentences": [{"video_id": "video1", "caption": "a"}]}),
    "msrvtt_qa": ("msrvtt_qa", "test_qa.json", [{"video_id": 1, "question": "q", "answer": "a", "id": 5}]),
    "captions": ("captions", "mine.jsonl", [{"image": "1.jpg", "captions": ["a", "b"], "domain": "in"}]),
    "questions": ("questions", "mine.jsonl", [{"image": "1.jpg", "question": "q", "answers": {"a": 2}}]),
    "two_images": ("two_images", "mine.jsonl", [{"images": ["1.jpg", "1.jpg"], "sentence": "s", "label": True}]),
    "video_questions": ("video_questions", "mine.jsonl", [{"video": "video1", "question": "q", "answers": ["a"]}]),
}  # fmt: skip
"""By a short name: benchmark, file, content."""

WRONG: tuple[Any, ...] = (
    None,
    5,
    True,
    "",
    " ",
    [],
    {},
    "x",
    ["x"],
    [None],
    [[]],
    {"a": "x"},
    "\ud800",
    "y" * 300,
    "a\0b",
    1e400,
)


def places_in(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    names = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for name in names:
        yield (*at, name)
        yield from places_in(content[name], (*at, name))


def with_value(content: Any, at: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(content)
    inside = changed
    for name in at[:-1]:
        inside = inside[name]
    inside[at[-1]] = value
    return changed


def whole_or_told(name: str, root: Path) -> Data | None:
    """What was read; None where one line says why it was not."""
    try:
        data = data_of(name, root)
    except InputError as error:
        said = str(error)
    else:
        return data
    assert "\n" not in said
    return None


@pytest.mark.parametrize("form", SHIPPED)
def test_a_wrong_value_anywhere_is_one_line(form: str, tmp_path: Path) -> None:
    name, file, content = SHIPPED[form]
    picture(tmp_path / "1.jpg", 1)
    for side in (0, 1):
        picture(tmp_path / "test1" / f"test1-0-0-img{side}.png", side)
    write_frames(tmp_path / "video1", 1, 2)
    root = tmp_path / file if file == "mine.jsonl" else tmp_path
    write_json(tmp_path / file, content)
    assert len(read(name, root)) == 1
    for at in places_in(content):
        for value in WRONG:
            write_json(tmp_path / file, with_value(content, at, value))
            if data := whole_or_told(name, root):
                digest_of_data(data.lists, data.media)


@pytest.mark.parametrize("which", ["questions", "annotations"])
def test_a_wrong_value_in_vqav2s_files_is_one_line(which: str, tmp_path: Path) -> None:
    write_vqav2(tmp_path, 1, 1)
    (file,) = tmp_path.glob(f"*_{which}.json")
    content = json.loads(file.read_text())
    for at in places_in(content):
        for value in WRONG:
            write_json(file, with_value(content, at, value))
            whole_or_told("vqav2", tmp_path)


def test_half_a_surrogate_pair_is_a_question_mark(tmp_path: Path) -> None:
    picture(tmp_path / "1.jpg", 1)
    rows = [{"image": "1.jpg", "captions": ["a \ud83d\udc15 \ud83d b", "caf\u00e9"]}]
    (found,) = read("captions", write_lines(tmp_path / "mine.jsonl", rows))
    assert found.captions == ("a \U0001f415 ? b", "café")


def test_a_picture_without_a_caption_is_told_before_any_work(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / f"{i}.jpg", i)
    rows = [{"image": f"{i}.jpg", "captions": texts} for i, texts in enumerate((["a", " "], [" "], ["", "\n"]))]
    said = told("captions", write_lines(tmp_path / "mine.jsonl", rows))
    assert "mine.jsonl: 2 of 3 have no caption, or blank ones alone, as 1.jpg; take them" in said
    images = [{"filename": "0.jpg", "split": "test", "sentences": [{"raw": ""}, {"raw": "a dog"}]}]
    write_json(tmp_path / "dataset_flickr30k.json", {"images": images})
    assert [one.captions for one in read("flickr30k", tmp_path)] == [("a dog",)]


def test_no_other_picture_stands_in_a_missing_ones_place(tmp_path: Path) -> None:
    """Names of one's own list may be alike but for their folders."""
    picture(tmp_path / "a" / "1.jpg", 1)
    picture(tmp_path / "val2014" / "1.jpg", 2)
    file = write_lines(tmp_path / "mine.jsonl", [{"image": f"{one}/1.jpg", "captions": ["x"]} for one in "ab"])
    assert "b/1.jpg: not there; 1 of 2 pictures are missing" in told("captions", file)
    picture(tmp_path / "b" / "1.jpg", 3)
    assert [one.file for one in read("captions", file)] == [tmp_path / "a" / "1.jpg", tmp_path / "b" / "1.jpg"]


def test_a_folder_is_no_picture_and_what_a_frame_links_to_may_be_gone(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").mkdir()
    file = write_lines(tmp_path / "mine.jsonl", [{"image": "1.jpg", "captions": ["x"]}])
    assert "1.jpg: not there" in told("captions", file)
    write_frames(tmp_path / "clip", 1, 2)
    (tmp_path / "clip" / "9.png").symlink_to("gone.png")
    data = data_of("videos", write_lines(tmp_path / "mine.jsonl", [{"video": "clip", "captions": ["x"]}]))
    assert digest_of_data(data.lists, data.media)


def test_images_and_captions_of_nocaps_go_together(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in (4, 5)]
    notes = [{"image_id": i, "caption": "a dog"} for i in (4, 5)]

    def said(images: list[Any], notes: list[Any]) -> str:
        write_json(tmp_path / "nocaps_val_4500_captions.json", {"images": images, "annotations": notes})
        return told("nocaps", tmp_path)

    assert "1 of 2 have no caption, or blank ones alone, as 5" in said(images, notes[:1])
    assert "annotation 2: image_id 9 is none of the images" in said(images, [*notes, {"image_id": 9, "caption": "x"}])
    assert "3 images have 2 different ids" in said([*images, images[0]], notes)
    assert "4.jpg: not there" in said(images, notes)


def test_questions_of_another_part_have_that_parts_pictures(tmp_path: Path) -> None:
    """Their numbers alone tell pictures of the parts apart."""
    write_vqav2(tmp_path, 1, 2)
    names = ("v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json")
    for name in names:
        (tmp_path / name.format("train2014")).write_bytes((tmp_path / name.format("val2014")).read_bytes())
    asked = names[0].format("train2014")
    assert "train2014/COCO_train2014_000000000000.jpg: not there" in told("vqav2", tmp_path / asked)
    picture(tmp_path / "train2014" / "COCO_train2014_000000000000.jpg", 1)
    data = data_of("vqav2", tmp_path / asked)
    assert {one.image.name for one in data.items} == {"COCO_train2014_000000000000.jpg"}
    assert [file.name for file in data.lists] == [asked, names[1].format("train2014")]
    write_json(tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": []})
    said = told("vqav2", tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json")
    assert "v2_mscoco_test-dev2015_annotations.json: not there" in said


def test_msvd_is_measured_on_the_videos_that_its_list_names(tmp_path: Path) -> None:
    """Its files have those of all parts, which as a gallery would give other figures."""
    for i in range(3):
        write_frames(tmp_path / f"clip_{i}_9", i, 2)
    text = "".join(f"clip_{i}_9 a dog {i}\n" for i in range(3))
    (tmp_path / "AllVideoDescriptions.txt").write_text(text)
    assert "test_list.txt: not there, beside AllVideoDescriptions.txt; get " in told("msvd", tmp_path)
    (tmp_path / "test_list.txt").write_text("clip_2_9\nclip_0_9\nclip_2_9\n")
    data = data_of("msvd", tmp_path)
    assert [one.key for one in data.items] == ["clip_2_9", "clip_0_9"]
    assert [file.name for file in data.lists] == ["AllVideoDescriptions.txt", "test_list.txt"]


def test_a_quote_in_a_csv_swallows_no_video(tmp_path: Path) -> None:
    for i in range(4):
        write_frames(tmp_path / f"video{i}", i, 2)
    sentences = ['"a man', '"a ""red"" dog, running"', "cars, and people", "two\tcats"]
    rows = [f"ret{i},msr{i},video{i},{text}" for i, text in enumerate(sentences)]
    file = tmp_path / "MSRVTT_JSFUSION_test.csv"
    file.write_text("\n".join(["\ufeffkey,vid_key,video_id,sentence", *rows, "ret9,msr9,video0,again", ""]))
    found = {one.key: one.captions for one in read("msrvtt", tmp_path)}
    assert found == {
        "video0": ('"a man', "again"), "video1": ('a "red" dog, running',), "video2": ("cars, and people",),
        "video3": ("two cats",),
    }  # fmt: skip
    file.write_text("key,video,sentence\nret0,video0,a\n")
    assert "its header has no video_id, only key, video, sentence" in told("msrvtt", tmp_path)


def test_answers_are_texts_with_counts(tmp_path: Path) -> None:
    picture(tmp_path / "1.jpg", 1)

    def people(answers: Any) -> Any:
        file = write_lines(tmp_path / "mine.jsonl", [{"image": "1.jpg", "question": "q", "answers": answers}])
        return read("questions", file)[0].answers

    assert people(["yes", "no", "yes", None, 2]) == {"yes": 2, "no": 1, "2": 1}
    assert people({"yes": 2.5}) == {"yes": 2.5}
    assert people(7) == {"7": 1}
    for wrong, message in (
        ([True], "an answer is true; a text was expected"),
        ([["a"]], "an answer is a list of 1; a text was expected"),
        ({"a": "many"}, "'many' is the count of an answer; a number above 0"),
        ({"a": 0}, "'0' is the count of an answer"),
        ([None], "no answers; a text, a list of texts"),
    ):
        with pytest.raises(InputError, match=message):
            people(wrong)
