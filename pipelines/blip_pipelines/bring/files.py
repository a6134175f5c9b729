"""Pictures that are files: those of a folder, with texts beside them, and those that a list names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.header import Header
from blip_bootstrap.reading.json_files import parse_json
from blip_bootstrap.reading.known_names import IMAGE_NAMES, find_name
from blip_bootstrap.reading.places import copied, is_remote
from blip_bootstrap.reading.records import read_records
from blip_bootstrap.reading.text_files import open_text
from blip_bootstrap.schemas.cells import NotTextError, text_of
from blip_pipelines.bring.origin import Origin, Source
from blip_pipelines.bring.tars import PICTURE_ENDINGS, TEXT_ENDINGS
from blip_pipelines.bring.texts import Found

_NUMBER = re.compile(r"(?<=\.jpg)#\d+$")
"""Behind the names in Flickr8k's lists: the number of the caption."""


def is_picture(name: str) -> bool:
    """Whether a file is a picture, by its name."""
    return name.rpartition(".")[2].lower() in PICTURE_ENDINGS and not name.rpartition("/")[2].startswith(".")


def found_in_folder(source: Source, names: Sequence[str]) -> Iterator[Found]:
    """The pictures of a folder, whose files have these `names`, with the texts and JSON of the same name."""
    there = set(names)
    for name in names:
        if is_picture(name):
            yield _beside(source, name, there)


def _beside(source: Source, name: str, there: set[str]) -> Found:
    stem, folder = name.rpartition(".")[0], Path(source.path)
    texts, record, mistake = list[str](), dict[str, Any](), None
    for ending in (*TEXT_ENDINGS, "json"):
        beside = next((one for one in (f"{stem}.{ending}", f"{name}.{ending}") if one in there), None)
        if not beside:
            continue
        try:
            body = read_beside(folder, beside)
            value = parse_json(body) if ending == "json" else body
        except (InputError, ValueError) as error:
            mistake = None if texts else f"{_joined(source.name, beside)}: damaged ({error})"
            continue
        if ending != "json":
            texts += [line.strip() for line in body.split("\n") if line.strip()]
        else:
            record = value if isinstance(value, dict) else {"captions": value}
    return Found(stem, Origin(source.entry, _joined(source.name, name)), record, texts, mistake)


def read_beside(folder: Path, name: str) -> str:
    """The text of a file in a folder. Raises InputError where it cannot be read."""
    path = here(folder / name if not is_remote(folder) else Path(f"{folder}/{name}"))
    with open_text(path) as stream:
        return stream.read()


def here(path: Path) -> Path:
    """A file of this machine: itself, or a copy of a store's."""
    return copied(path) if is_remote(path) else path


def _joined(folder: str, name: str) -> str:
    return name if folder in ("", ".") else f"{folder}/{name}"


def image_name(names: Sequence[str], wanted: str | None) -> str | None:
    """The column with the names of the pictures' files; None where there is none."""
    return (wanted if wanted in names else None) if wanted else find_name(names, IMAGE_NAMES)


def found_in_list(source: Source, image_column: str | None, folder: str) -> Iterator[Found]:
    """The pictures that a list names, `folder` being the one that their names begin in, from the entry's on."""
    path = here(Path(source.path))
    if (coco := read_coco(path)) is not None:
        yield from _of_coco(source, coco, folder)
        return
    if (mapping := read_mapping(path)) is not None:
        for name, texts in mapping.items():
            yield _named(source, name, {"captions": texts}, folder, name)
        return
    column = ""

    def check(header: Header) -> list[str]:
        nonlocal column
        column = image_name(header.names, image_column) or image_column or "image"
        header.require({"image_column": column})
        return [column]

    for record in read_records(path, check, "a list of pictures", with_others=True):
        if record.mistake:
            yield Found(record.where, None, {}, mistake=f"{source.name}: {record.mistake}")
            continue
        cells = dict(record.cells)
        try:
            name = text_of(cells.pop(column, None)).strip()
        except NotTextError as error:
            yield Found(
                record.where, None, {}, mistake=f"{source.name}: {record.where}: {error} where a name was expected"
            )
            continue
        yield _named(source, _NUMBER.sub("", name), cells, folder, record.where)


def _named(source: Source, name: str, record: Mapping[str, Any], folder: str, where: str) -> Found:
    inside = _inside(folder, name)
    if inside is None:
        why = "names no picture" if not name else f"names a picture outside of its folder: {name[:200]}"
        return Found(where, None, record, mistake=f"{source.name}: {where} {why}")
    key = str(record.get("key") or name)
    return Found(key, Origin(source.entry, inside), {k: v for k, v in record.items() if k != "key"})


def _inside(folder: str, name: str) -> str | None:
    """A name from the entry's folder on; None for one that leads out of the folder."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts:
        return None
    return _joined(folder, "/".join(parts))


def read_coco(path: Path) -> dict[str, Any] | None:
    """COCO's captions, where the file is one: an object with the lists `images` and `annotations`; else None.

    It is one JSON value, and memory holds it.
    """
    if path.suffix.lower() not in (".json", ".gz"):
        return None
    with open_text(path) as stream:
        head = stream.read(1 << 16).lstrip()
        if not head.startswith("{") or not any(f'"{name}"' in head for name in ("images", "annotations", "info")):
            return None
        try:
            found = json.loads(head + stream.read())
        except ValueError:
            return None
    images, texts = found.get("images"), found.get("annotations")
    if not isinstance(images, list) or not isinstance(texts, list):
        return None
    return found if not texts or (isinstance(texts[0], dict) and "caption" in texts[0]) else None


def read_mapping(path: Path) -> dict[str, Any] | None:
    """A JSON object from file names of pictures to a text or a list of texts; None for any other file."""
    if path.suffix.lower() != ".json":
        return None
    with open_text(path) as stream:
        head = stream.read(1 << 12).lstrip()
        name = re.match(r'\{\s*"([^"]+)"\s*:', head)
        if not name or not is_picture(name[1]):
            return None
        try:
            return dict(json.loads(head + stream.read()))
        except ValueError:
            return None


def _of_coco(source: Source, coco: dict[str, Any], folder: str) -> Iterator[Found]:
    texts: dict[Any, list[Any]] = {}
    for one in coco["annotations"]:
        texts.setdefault(one.get("image_id"), []).append({k: v for k, v in one.items() if k not in ("id", "image_id")})
    for image in coco["images"]:
        record = {name: value for name, value in image.items() if name not in ("file_name", "id")}
        record["captions"] = texts.get(image.get("id"), [])
        yield _named(source, str(image.get("file_name", "")), record, folder, f"image {image.get('id')}")
