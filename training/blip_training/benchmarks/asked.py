"""Reads questions about pictures and videos, and statements about two pictures, from the files of each publisher."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.text_files import lines_of
from blip_training.benchmarks.names import VQA_QUESTIONS, Benchmark
from blip_training.benchmarks.places import Media, cell, find_beside, read_json, rows_of
from blip_training.data.questions import Question


@dataclass(frozen=True)
class Asked(Question):
    """A question of a benchmark: its `image` is a picture or a video, `id` is the publisher's, `kind` the answer's."""

    id: str = ""
    kind: str | None = None


@dataclass(frozen=True)
class Statement:
    """A sentence about two pictures, and whether it is true of them."""

    images: tuple[Path, Path]
    sentence: str
    label: bool
    id: str


def read_asked(benchmark: Benchmark, file: Path, media: Media) -> list[Asked]:
    """The questions of a list, in its order. Raises InputError where it is not as its publisher ships it."""
    if file.name == VQA_QUESTIONS or "OpenEnded" in file.name:
        return _vqav2(benchmark, file, media)
    names = _msvd_names(benchmark, file)
    return [_asked(row, f"{file}: row {number + 1}", number, media, names) for number, row in enumerate(rows_of(file))]


def _vqav2(benchmark: Benchmark, file: Path, media: Media) -> list[Asked]:
    """VQAv2: one file with questions, one with annotations, by question_id."""
    beside = find_beside(benchmark, file) or file.with_name(
        file.name.replace("OpenEnded_", "").replace("_questions", "_annotations")
    )
    if not beside.is_file():
        raise InputError(f"{beside}: not there, beside {file.name}; get {benchmark.publisher}")
    given = {row.get("question_id"): row for row in _listed(beside, "annotations")}
    asked = []
    for number, row in enumerate(_listed(file, "questions")):
        where = f"{file}: question {number}"
        if (people := given.get(row.get("question_id"))) is None:
            raise InputError(f"{where}: question_id {row.get('question_id')} is not in {beside.name}")
        image = f"val2014/COCO_val2014_{cell(row, 'image_id', int, where):012d}.jpg"
        answers = Counter(str(one["answer"]) for one in cell(people, "answers", list, where))
        text = " ".join(cell(row, "question", str, where).split())
        asked.append(Asked(media.find(image), text, answers, where, str(row["question_id"]), people.get("answer_type")))
    return asked


def _listed(file: Path, name: str) -> list[dict[str, Any]]:
    content = read_json(file)
    rows = content.get(name) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{file}: has no list `{name}`; VQAv2's files have one")
    return rows


def _asked(row: dict[str, Any], where: str, number: int, media: Media, names: dict[str, str]) -> Asked:
    """One question of BLIP's, MSRVTT-QA's, MSVD-QA's or this project's lists."""
    if "video_id" in row:
        video = f"vid{row['video_id']}" if names else f"video{row['video_id']}"
        if names and video not in names:
            raise InputError(f"{where}: {video} is not in youtube_mapping.txt")
        name = names.get(video, video)
    else:
        name = cell(row, "video" if "video" in row else "image", str, where)
    given = next((row[one] for one in ("answers", "answer") if row.get(one)), None)
    if given is None:
        raise InputError(f"{where}: no answers; a text, a list of texts or texts with counts were expected")
    answers = Counter(given) if isinstance(given, dict) else Counter([given] if isinstance(given, str) else given)
    text = " ".join(cell(row, "question", str, where).split())
    own = row.get("question_id", row.get("id", number))
    return Asked(media.find(name), text, {str(one): count for one, count in answers.items()}, where, str(own))


def _msvd_names(benchmark: Benchmark, file: Path) -> dict[str, str]:
    """The names of the videos by MSVD-QA's numbers, as `vid1301`; empty for other benchmarks."""
    beside = find_beside(benchmark, file) if benchmark.name == "msvd_qa" else None
    pairs = [line.split() for _, line in lines_of(beside) if line.strip()] if beside else []
    if any(len(pair) != 2 for pair in pairs):
        raise InputError(f"{beside}: each line has a video's name and its number, as `-4wsuPCjDBc_5_15 vid1`")
    return {number: name for name, number in pairs}


def read_statements(file: Path, media: Media) -> list[Statement]:
    """The statements of test1.json, nlvr_test.json or this project's list, in its order."""
    return [_statement(row, f"{file}: row {n + 1}", n, media) for n, row in enumerate(rows_of(file))]


def _statement(row: dict[str, Any], where: str, number: int, media: Media) -> Statement:
    label = str(row.get("label")).lower()
    if label not in ("true", "false"):
        raise InputError(f"{where}: label is {row.get('label')!r}; true or false was expected")
    names = _pair(row, where)
    first, second = (media.find(name) for name in names)
    own = str(row.get("identifier", number))
    return Statement((first, second), cell(row, "sentence", str, where), label == "true", own)


def _pair(row: dict[str, Any], where: str) -> list[str]:
    """The names of the two pictures; NLVR2 names them by the sentence's identifier, as dev-850-0-1."""
    if "identifier" in row and "images" not in row:
        group = "-".join(cell(row, "identifier", str, where).split("-")[:3])
        folder = group.split("-")[0]
        return [f"{folder}/{group}-img{side}.png" for side in (0, 1)]
    names: list[str] = cell(row, "images", list, where)
    if len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: images is {str(names)[:60]!r}; two file names were expected")
    return names
