"""Reads questions about pictures and videos, and statements about two pictures, from the files of each publisher."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.text_files import lines_of
from blip_bootstrap.schemas.cells import NotTextError, described, text_of
from blip_training.benchmarks.places import Media, cell, is_vqav2, objects_in, read_json, rows_of
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


def read_asked(file: Path, media: Media, beside: Path | None = None) -> list[Asked]:
    """The questions of a list, in its order. Raises InputError where it is not as its publisher ships it.

    `beside` are VQAv2's annotations, or the names of MSVD's videos.
    """
    if is_vqav2(file) and beside:
        return _vqav2(file, media, beside)
    names = _msvd_names(beside) if beside else {}
    return [_asked(row, f"{file}: row {number + 1}", number, media, names) for number, row in enumerate(rows_of(file))]


def _vqav2(file: Path, media: Media, beside: Path) -> list[Asked]:
    """VQAv2: one file with questions, one with annotations, by question_id."""
    content, whose = read_json(file), "VQAv2's files have"
    given = {
        cell(row, "question_id", (int, str), f"{beside}: annotation {number}"): row
        for number, row in enumerate(objects_in(read_json(beside), "annotations", beside, whose))
    }
    part = _part(content, file)
    asked = []
    for number, row in enumerate(objects_in(content, "questions", file, whose)):
        where = f"{file}: question {number}"
        own = cell(row, "question_id", (int, str), where)
        if (people := given.get(own)) is None:
            raise InputError(f"{where}: question_id {own} is not in {beside.name}")
        image = f"{part}/COCO_{part}_{cell(row, 'image_id', int, where):012d}.jpg"
        answered = f"{beside}: question_id {own}"
        texts = [cell(one, "answer", str, answered, True) for one in cell(people, "answers", list, answered)]
        text = " ".join(cell(row, "question", str, where).split())
        asked.append(Asked(media.find(image), text, Counter(texts), where, str(own), _kind(people)))
    if not asked:
        raise InputError(f"{file}: no question in it")
    return asked


def _part(content: Any, file: Path) -> str:
    """The part of COCO that VQAv2's questions are about: that of their file, of their file's name, or val2014."""
    said = str(content.get("data_subtype") if isinstance(content, dict) else "")
    found = re.search(r"(train|val|test)(-dev)?(20\d\d)", said) or re.search(
        r"(train|val|test)(-dev)?(20\d\d)", file.name
    )
    return f"{found[1]}{found[3]}" if found else "val2014"


def _kind(people: dict[str, Any]) -> str | None:
    kind = people.get("answer_type")
    return kind if isinstance(kind, str) and kind else None


def _asked(row: dict[str, Any], where: str, number: int, media: Media, names: dict[str, str]) -> Asked:
    """One question of BLIP's, MSRVTT-QA's, MSVD-QA's or this project's lists."""
    if "video_id" in row:
        video = f"vid{row['video_id']}" if names else f"video{row['video_id']}"
        if names and video not in names:
            raise InputError(f"{where}: {video} is not in youtube_mapping.txt")
        name = names.get(video, video)
    else:
        name = cell(row, "video" if "video" in row else "image", str, where)
    given = next((row[one] for one in ("answers", "answer") if row.get(one) not in (None, "", [], {})), None)
    people = _people(given, where)
    text = " ".join(cell(row, "question", str, where).split())
    own = row.get("question_id", row.get("id", number))
    return Asked(media.find(name), text, people, where, str(own))


def _people(given: Any, where: str) -> dict[str, float]:
    """How many people gave each answer: of a text, a list of a text for each person, or texts with counts."""
    counted = given.items() if isinstance(given, dict) else [(one, 1) for one in _as_list(given)]
    people: dict[str, float] = {}
    for one, count in counted:
        try:
            text = text_of(one)
        except NotTextError as error:
            raise InputError(f"{where}: an answer is {error}; a text was expected") from error
        if not isinstance(count, int | float) or isinstance(count, bool) or not 0 < count < math.inf:
            raise InputError(f"{where}: {described(count)} is the count of an answer; a number above 0 was expected")
        if one is not None:
            people[text] = people.get(text, 0) + count
    if not people:
        raise InputError(f"{where}: no answers; a text, a list of texts or texts with counts were expected")
    return people


def _as_list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _msvd_names(beside: Path) -> dict[str, str]:
    """The names of the videos by MSVD-QA's numbers, as `vid1301`."""
    pairs = [line.split() for _, line in lines_of(beside) if line.strip()]
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
