"""What is missing or damaged is one line that says which file, and where its publisher has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.config import BenchmarkConfig
from blip_bootstrap.errors import InputError
from blip_training.benchmarks.evaluate_on import read_data
from blip_training.benchmarks.names import BENCHMARKS, benchmark_of
from tests.support.benchmark_files import picture, write_coco, write_frames, write_json, write_lines, write_vqav2

PUBLISHED = [name for name, one in BENCHMARKS.items() if not one.is_own]


def read(name: str, root: Path, **changes: Any) -> list[Any]:
    return list(read_data(benchmark_of(name), root, BenchmarkConfig(**changes)).items)


def told(name: str, root: Path, **changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(name, root, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_missing_list_is_named_with_its_publisher(name: str, tmp_path: Path) -> None:
    said = told(name, tmp_path)
    assert said.startswith(f"{tmp_path}: there is no {BENCHMARKS[name].files['test'][0]}")
    assert "; get " in said
    assert "https://" in said


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in PUBLISHED])
def test_a_list_of_ones_own_must_be_there(name: str, tmp_path: Path) -> None:
    assert "no such file; --on" in told(name, tmp_path / "mine.jsonl")


def test_an_unknown_name_lists_those_that_there_are() -> None:
    with pytest.raises(InputError, match="--on cocoa: no such benchmark; there are coco, flickr30k, nocaps"):
        benchmark_of("cocoa")


def test_missing_pictures_are_counted(tmp_path: Path) -> None:
    write_coco(tmp_path, 4)
    for number in (1, 3):
        (tmp_path / "val2014" / f"COCO_val2014_{number:012d}.png").unlink()
    said = told("coco", tmp_path)
    assert "COCO_val2014_000000000001.png: not there; 2 of 4 pictures are missing" in said
    assert "https://cocodataset.org" in said


def test_missing_annotations_of_vqav2_are_named(tmp_path: Path) -> None:
    write_vqav2(tmp_path)
    assert len(read("vqav2", tmp_path)) == 12
    annotations = tmp_path / "v2_mscoco_val2014_annotations.json"
    content = json.loads(annotations.read_text())
    write_json(annotations, {"annotations": content["annotations"][1:]})
    assert "question 0: question_id 7000 is not in v2_mscoco_val2014_annotations.json" in told("vqav2", tmp_path)
    annotations.unlink()
    said = told("vqav2", tmp_path)
    assert said.startswith(f"{annotations}: not there, beside v2_OpenEnded_mscoco_val2014_questions.json; get ")
    assert "https://visualqa.org" in said


def test_a_missing_mapping_of_msvd_qa_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "test_qa.json", [{"video_id": 3, "question": "what", "answer": "dog"}])
    assert "youtube_mapping.txt: not there, beside test_qa.json; get " in told("msvd_qa", tmp_path)
    (tmp_path / "youtube_mapping.txt").write_text("clip_1_2 vid4\n")
    assert "vid3 is not in youtube_mapping.txt" in told("msvd_qa", tmp_path)
    (tmp_path / "youtube_mapping.txt").write_text("clip_1_2\n")
    assert "each line has a video's name and its number" in told("msvd_qa", tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("coco", "dataset_coco.json", [1, 2], "has no list `images`"),
        ("coco", "dataset_coco.json", {"images": [{"split": "test", "filename": 3}]}, "image 0: filename is '3'; str"),
        ("coco", "dataset_coco.json", {"images": [{"split": "val"}]}, "no item with a caption in it"),
        ("coco", "coco_karpathy_test.json", [], "a list of JSON objects was expected"),
        ("coco", "coco_karpathy_test.json", [{"image": "a.jpg"}], "row 1: no captions; a text or a list of texts"),
        ("coco", "coco_karpathy_test.json", [{"caption": ["x"]}], "row 1: image is 'None'; str was expected"),
        ("nocaps", "nocaps_val_4500_captions.json", {"images": [{"id": 1}]}, "those of the test part are not public"),
        ("vqav2", "vqa_val.json", [{"image": "a.jpg", "question": "q"}], "row 1: no answers; a text, a list of texts"),
        ("nlvr2", "nlvr_test.json", [{"sentence": "s", "label": "True", "images": ["a"]}], "two file names"),
        ("msrvtt", "test_videodatainfo.json", {"videos": []}, "has no list `sentences`"),
    ],
)  # fmt: skip
def test_a_list_of_another_form_is_told(name: str, file: str, content: Any, message: str, tmp_path: Path) -> None:
    write_json(tmp_path / file, content)
    said = told(name, tmp_path)
    assert file in said
    assert message in said


def test_a_file_that_is_no_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "coco_karpathy_test.json").write_text("[{")
    assert "coco_karpathy_test.json: neither JSON nor JSON lines" in told("coco", tmp_path)


def test_pictures_are_found_where_archives_put_them(tmp_path: Path) -> None:
    rows = [{"image": f"flickr30k-images/{i}.jpg", "caption": [f"w{i}"]} for i in range(2)]
    write_json(tmp_path / "annotations" / "flickr30k_test.json", rows)
    picture(tmp_path / "flickr30k-images" / "0.jpg", 0)
    picture(tmp_path / "images" / "1.jpg", 1)
    assert [one.file.name for one in read("flickr30k", tmp_path)] == ["0.jpg", "1.jpg"]


def test_karpathys_split_is_chosen(tmp_path: Path) -> None:
    images = [
        {"filename": f"{i}.jpg", "split": ("test", "val", "train")[i % 3], "sentences": [{"raw": f" w{i}  w1 "}]}
        for i in range(6)
    ]
    for i in range(6):
        picture(tmp_path / f"{i}.jpg", i)
    write_json(tmp_path / "dataset_flickr30k.json", {"images": images})
    assert [one.captions for one in read("flickr30k", tmp_path)] == [("w0 w1",), ("w3 w1",)]
    assert [one.file.name for one in read("flickr30k", tmp_path, split="val")] == ["1.jpg", "4.jpg"]


def test_captions_of_a_row_each_are_put_together(tmp_path: Path) -> None:
    write_frames(tmp_path / "a", 1, 2)
    write_lines(tmp_path / "mine.jsonl", [{"video": "a", "caption": "w1"}, {"video": "a", "caption": "w2"}])
    assert [one.captions for one in read("videos", tmp_path / "mine.jsonl")] == [("w1", "w2")]
