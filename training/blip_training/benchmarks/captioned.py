"""Reads pictures and videos with captions, from the files of each publisher."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.text_files import lines_of, open_text
from blip_training.benchmarks.names import Benchmark
from blip_training.benchmarks.places import Media, cell, read_json, rows_of

MOST_FIELD_CHARS = 10_000_000


@dataclass(frozen=True)
class Captioned:
    """A picture, or a video (a file, or a folder of frames), with what people wrote about it."""

    key: str
    file: Path
    captions: tuple[str, ...]
    domain: str | None = None


def read_captioned(benchmark: Benchmark, file: Path, media: Media, split: str) -> list[Captioned]:
    """The items of a list, in its order. Raises InputError where it is not as its publisher ships it, or is empty."""
    read: Callable[[Path, Media, str], Iterable[Captioned]] = _plain
    if file.name.startswith("dataset_"):
        read = _karpathy
    elif benchmark.name == "nocaps" and not file.name.startswith("nocaps_val.json"):
        read = _coco_style
    elif benchmark.name == "msrvtt" and file.suffix != ".jsonl":
        read = _msrvtt_csv if file.suffix == ".csv" else _msrvtt_videodatainfo
    elif benchmark.name == "msvd" and file.suffix != ".jsonl":
        read = _msvd
    items = list(read(file, media, split))
    if not items:
        raise InputError(f"{file}: no item with a caption in it")
    return items


def _karpathy(file: Path, media: Media, split: str) -> Iterable[Captioned]:
    """dataset_coco.json and dataset_flickr30k.json: images with a split, and sentences."""
    content = read_json(file)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise InputError(f"{file}: has no list `images`; Karpathy's splits have one")
    for number, image in enumerate(images):
        if image.get("split") == split:
            where = f"{file}: image {number}"
            name = cell(image, "filename", str, where)
            texts = [cell(one, "raw", str, where) for one in cell(image, "sentences", list, where)]
            path = f"{image['filepath']}/{name}" if image.get("filepath") else name
            yield Captioned(str(number), media.find(path), _clean(texts))


def _plain(file: Path, media: Media, split: str) -> Iterable[Captioned]:
    """The lists of BLIP's authors, and this project's: image, clip_name or video, and caption or captions.

    Rows of one picture or video in succession, as in lists with a caption a row, are put together.
    """
    found: dict[str, Captioned] = {}
    for number, row in enumerate(rows_of(file)):
        where = f"{file}: row {number + 1}"
        name = cell(row, next((one for one in ("image", "clip_name", "video") if one in row), "image"), str, where)
        given = row.get("captions") or row.get("caption")
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{where}: no captions; a text or a list of texts was expected")
        before = found[name].captions if name in found else ()
        found[name] = Captioned(name, media.find(name), before + _clean(texts), _domain(row.get("domain")))
    return found.values()


def _coco_style(file: Path, media: Media, split: str) -> Iterable[Captioned]:
    """nocaps_val_4500_captions.json: images with a domain, and annotations with a caption each."""
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise InputError(f"{file}: has no list `images`; nocaps' annotations have one")
    if not content.get("annotations"):
        raise InputError(f"{file}: has no captions; those of the test part are not public, the validation part's are")
    texts: dict[Any, list[str]] = {}
    for number, row in enumerate(content["annotations"]):
        texts.setdefault(row.get("image_id"), []).append(cell(row, "caption", str, f"{file}: annotation {number}"))
    for number, image in enumerate(content["images"]):
        if image.get("id") in texts:
            name = cell(image, "file_name", str, f"{file}: image {number}")
            yield Captioned(
                str(image["id"]), media.find(name), _clean(texts[image["id"]]), _domain(image.get("domain"))
            )


def _msrvtt_csv(file: Path, media: Media, split: str) -> Iterable[Captioned]:
    """MSRVTT_JSFUSION_test.csv: key, vid_key, video_id, sentence."""
    csv.field_size_limit(MOST_FIELD_CHARS)
    with open_text(file) as stream:
        for number, row in enumerate(csv.DictReader(stream)):
            where = f"{file}: row {number + 1}"
            name = cell(dict(row), "video_id", str, where)
            yield Captioned(name, media.find(name), _clean([cell(dict(row), "sentence", str, where)]))


def _msrvtt_videodatainfo(file: Path, media: Media, split: str) -> Iterable[Captioned]:
    """test_videodatainfo.json: videos, and sentences with the video's name."""
    content = read_json(file)
    sentences = content.get("sentences") if isinstance(content, dict) else None
    if not isinstance(sentences, list):
        raise InputError(f"{file}: has no list `sentences`; MSRVTT's lists have one")
    texts: dict[str, list[str]] = {}
    for number, row in enumerate(sentences):
        where = f"{file}: sentence {number}"
        texts.setdefault(cell(row, "video_id", str, where), []).append(cell(row, "caption", str, where))
    return [Captioned(name, media.find(name), _clean(own)) for name, own in texts.items()]


def _msvd(file: Path, media: Media, split: str) -> Iterable[Captioned]:
    """AllVideoDescriptions.txt or the corpus as CSV, of them the videos in test_list.txt, where that is there."""
    texts = _msvd_csv(file) if file.suffix == ".csv" else _msvd_text(file)
    chosen = file.with_name(f"{split}_list.txt")
    names = [line.strip() for _, line in lines_of(chosen) if line.strip()] if chosen.is_file() else list(texts)
    if unknown := [name for name in names if name not in texts]:
        raise InputError(f"{chosen}: {unknown[0]} has no description in {file.name}, as have {len(unknown)} of them")
    return [Captioned(name, media.find(name), _clean(texts[name])) for name in names]


def _msvd_text(file: Path) -> Mapping[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for _, line in lines_of(file):
        name, _, text = line.strip().partition(" ")
        if text and not line.startswith("#"):
            texts.setdefault(name, []).append(text)
    return texts


def _msvd_csv(file: Path) -> Mapping[str, list[str]]:
    csv.field_size_limit(MOST_FIELD_CHARS)
    texts: dict[str, list[str]] = {}
    with open_text(file) as stream:
        for row in csv.DictReader(stream):
            text = (row.get("Description") or "").strip()
            if row.get("Language") == "English" and text:
                texts.setdefault(f"{row.get('VideoID')}_{row.get('Start')}_{row.get('End')}", []).append(text)
    return texts


def _clean(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(" ".join(text.split()) for text in texts if text.strip())


def _domain(domain: object) -> str | None:
    """nocaps' `in-domain` as `in`."""
    return str(domain).removesuffix("-domain") if domain else None
