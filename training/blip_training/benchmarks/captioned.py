"""Reads pictures and videos with captions, from the files of each publisher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.delimited import records_of, split_fields
from blip_bootstrap.reading.text_files import lines_of, plain_suffix
from blip_training.benchmarks.names import Benchmark
from blip_training.benchmarks.places import Media, cell, objects_in, read_json, rows_of


@dataclass(frozen=True)
class Captioned:
    """A picture, or a video (a file, or a folder of frames), with what people wrote about it."""

    key: str
    file: Path
    captions: tuple[str, ...]
    domain: str | None = None


def read_captioned(
    benchmark: Benchmark, file: Path, media: Media, split: str, beside: Path | None = None
) -> list[Captioned]:
    """The items of a list, in its order. Raises InputError where it is not as its publisher ships it, or is empty.

    `beside` has the names of those of MSVD's videos that are read.
    """
    items = list(_read(benchmark, file, media, split, beside))
    if not items:
        raise InputError(f"{file}: no item with a caption in it")
    if without := [item.key for item in items if not item.captions]:
        lacking = f"{len(without):,} of {len(items):,} have no caption, or blank ones alone"
        raise InputError(f"{file}: {lacking}, as {without[0]}; take them out of the list, or get the file again")
    return items


def _read(benchmark: Benchmark, file: Path, media: Media, split: str, beside: Path | None) -> Iterable[Captioned]:
    if file.name.startswith("dataset_"):
        return _karpathy(file, media, split)
    if benchmark.name == "nocaps" and not file.name.startswith("nocaps_val.json"):
        return _coco_style(file, media)
    if benchmark.name == "msrvtt" and plain_suffix(file) != ".jsonl":
        return _msrvtt_csv(file, media) if plain_suffix(file) == ".csv" else _msrvtt_videodatainfo(file, media)
    if benchmark.name == "msvd" and beside:
        return _msvd(file, media, beside)
    return _plain(file, media)


def _karpathy(file: Path, media: Media, split: str) -> Iterable[Captioned]:
    """dataset_coco.json and dataset_flickr30k.json: images with a split, and sentences."""
    for number, image in enumerate(objects_in(read_json(file), "images", file, "Karpathy's splits have")):
        if image.get("split") == split:
            where = f"{file}: image {number}"
            name = cell(image, "filename", str, where)
            texts = [cell(one, "raw", str, where, True) for one in cell(image, "sentences", list, where)]
            path = f"{image['filepath']}/{name}" if image.get("filepath") else name
            yield Captioned(str(number), media.find(path), _clean(texts))


def _plain(file: Path, media: Media) -> Iterable[Captioned]:
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


def _coco_style(file: Path, media: Media) -> Iterable[Captioned]:
    """nocaps_val_4500_captions.json: images with a domain, and annotations with a caption each."""
    content, whose = read_json(file), "nocaps' annotations have"
    images = objects_in(content, "images", file, whose)
    if not content.get("annotations"):
        raise InputError(f"{file}: has no captions; those of the test part are not public, the validation part's are")
    texts: dict[int | str, list[str]] = {
        cell(image, "id", (int, str), f"{file}: image {number}"): [] for number, image in enumerate(images)
    }
    if len(texts) < len(images):
        raise InputError(f"{file}: {len(images):,} images have {len(texts):,} different ids; each needs its own")
    for number, row in enumerate(objects_in(content, "annotations", file, whose)):
        where = f"{file}: annotation {number}"
        if (own := texts.get(cell(row, "image_id", (int, str), where))) is None:
            raise InputError(f"{where}: image_id {row['image_id']!r} is none of the images")
        own.append(cell(row, "caption", str, where, True))
    for number, image in enumerate(images):
        name = cell(image, "file_name", str, f"{file}: image {number}")
        yield Captioned(str(image["id"]), media.find(name), _clean(texts[image["id"]]), _domain(image.get("domain")))


def _msrvtt_csv(file: Path, media: Media) -> Iterable[Captioned]:
    """MSRVTT_JSFUSION_test.csv: key, vid_key, video_id, sentence."""
    texts: dict[str, list[str]] = {}
    for where, row in _csv_rows(file, ("video_id", "sentence")):
        texts.setdefault(cell(row, "video_id", str, where), []).append(cell(row, "sentence", str, where))
    return [Captioned(name, media.find(name), _clean(own)) for name, own in texts.items()]


def _msrvtt_videodatainfo(file: Path, media: Media) -> Iterable[Captioned]:
    """test_videodatainfo.json: videos, and sentences with the video's name."""
    texts: dict[str, list[str]] = {}
    for number, row in enumerate(objects_in(read_json(file), "sentences", file, "MSRVTT's lists have")):
        where = f"{file}: sentence {number}"
        texts.setdefault(cell(row, "video_id", str, where), []).append(cell(row, "caption", str, where, True))
    return [Captioned(name, media.find(name), _clean(own)) for name, own in texts.items()]


def _msvd(file: Path, media: Media, chosen: Path) -> Iterable[Captioned]:
    """AllVideoDescriptions.txt or the corpus as CSV, of them the videos that a list names."""
    texts = _msvd_csv(file) if plain_suffix(file) == ".csv" else _msvd_text(file)
    names = [line.strip() for _, line in lines_of(chosen) if line.strip()]
    if unknown := [name for name in names if name not in texts]:
        raise InputError(f"{chosen}: {unknown[0]} has no description in {file.name}, as have {len(unknown)} of them")
    return [Captioned(name, media.find(name), _clean(texts[name])) for name in dict.fromkeys(names)]


def _msvd_text(file: Path) -> Mapping[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for _, line in lines_of(file):
        name, _, text = line.strip().partition(" ")
        if text and not line.startswith("#"):
            texts.setdefault(name, []).append(text)
    return texts


def _msvd_csv(file: Path) -> Mapping[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for _, row in _csv_rows(file, ("VideoID", "Start", "End", "Language", "Description")):
        text = row.get("Description", "").strip()
        if row.get("Language") == "English" and text:
            texts.setdefault(f"{row['VideoID']}_{row['Start']}_{row['End']}", []).append(text)
    return texts


def _csv_rows(file: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file by its header, each with its place. A quote without an end swallows no rows.

    Where the text is the last column, commas without quotes are part of it.
    """
    lines = lines_of(file)
    header = next((line for _, line in lines if line.strip()), "")
    names = [name.strip() for name in split_fields(header, ",")[0]]
    if lacking := [name for name in needed if name not in names]:
        raise InputError(f"{file}: its header has no {lacking[0]}, only {', '.join(names)[:200] or 'nothing'}")
    for number, fields, _ in records_of(lines, ",", lambda found: len(found) == len(names)):
        if len(fields) > len(names) and names[-1] == needed[-1]:
            fields[len(names) - 1 :] = [",".join(fields[len(names) - 1 :])]
        yield f"{file}: line {number}", dict(zip(names, fields, strict=False))


def _clean(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(" ".join(text.split()) for text in texts if text.strip())


def _domain(domain: object) -> str | None:
    """nocaps' `in-domain` as `in`."""
    return str(domain).removesuffix("-domain") if domain else None
