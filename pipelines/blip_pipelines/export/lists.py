"""Lists of pictures that lie beside them as files: BLIP's own JSON, and COCO's captions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from blip_pipelines.export.documents import Document, documents, encode
from blip_pipelines.export.joined import Batch
from blip_pipelines.export.note import PARTS
from blip_pipelines.export.place import Place

PICTURES = "images"

COCO = "captions.json"

TEXTS_PER_PICTURE = 100_000
"""COCO numbers its captions: the picture's number times this, and the text's place among the picture's."""

Written = list[tuple[str, int, str]]


def write_blip(place: Place, name: str, batches: Iterator[Batch]) -> Written:
    """Write the pictures of a shard, and `NAME.json`: `image` and `caption` of each text, as BLIP's trainings read."""
    entries = [
        {"image": file, "caption": text["caption"]} | _verdict(text)
        for document, file in _with_files(place, name, batches)
        for text in document["captions"]
    ]
    return [_list(place, f"{name}.json", ["[\n", ",\n".join(map(encode, entries)), "\n]\n"])]


def _verdict(text: Document) -> Document:
    return {} if text["kept"] else {"kept": False, "reason": text["reason"]}


def write_coco_part(place: Place, name: str, batches: Iterator[Batch]) -> Written:
    """Write the pictures of a shard, and its pieces of COCO's list."""
    images, annotations = [], []
    for document, file in _with_files(place, name, batches):
        number = int(document["key"])
        images.append(encode(_coco_image(document, number, file)))
        for at, text in enumerate(document["captions"]):
            annotations.append(encode({"id": number * TEXTS_PER_PICTURE + at, "image_id": number, **text}))
    pieces = {"images": images, "annotations": annotations}
    return [_list(place, _piece(name, kind), [",\n".join(rows)]) for kind, rows in pieces.items()]


def _coco_image(document: Document, number: int, file: str) -> Document:
    told = {name: value for name, value in document.items() if name not in ("captions", "caption")}
    return {"id": number, "file_name": file, "coco_url": document["url"], **told}


def join_coco(place: Place, names: Iterable[str], told: dict[str, Any]) -> Written:
    """Join the pieces of all shards to COCO's list, one after the other; `told` is its `info`."""
    names = list(names)

    def content() -> Iterator[str]:
        yield f'{{"info":{encode(told)},\n"licenses":[],\n"type":"captions"'
        for kind in ("images", "annotations"):
            yield f',\n"{kind}":[\n'
            for at, name in enumerate(names):
                yield (",\n" if at else "") + (place.read(_piece(name, kind)) or b"").decode()
            yield "\n]"
        yield "}\n"

    return [_list(place, COCO, content())]


def drop_pieces(place: Place, names: Iterable[str]) -> None:
    """Delete the pieces of the shards, once they are joined."""
    place.delete([_piece(name, kind) for name in names for kind in ("images", "annotations")])


def _piece(name: str, kind: str) -> str:
    return f"{PARTS}/{name}.{kind}.txt"


def _with_files(place: Place, name: str, batches: Iterator[Batch]) -> Iterator[tuple[Document, str]]:
    """What is known of each picture, and its file, which is there under its name once all have come."""
    with place.staged_folder(f"{PICTURES}/{name}") as folder:
        for batch in batches:
            for document, jpg in zip(documents(batch), batch.pictures, strict=True):
                (folder / f"{document['key']}.jpg").write_bytes(jpg)
                yield document, f"{PICTURES}/{name}/{document['key']}.jpg"


def _list(place: Place, name: str, content: Iterable[str]) -> tuple[str, int, str]:
    """Write a text file; its name, bytes and sha256."""
    whole, size_bytes = hashlib.sha256(), 0
    with place.staged(name) as staged, staged.open("wb") as file:
        for piece in content:
            data = piece.encode()
            whole.update(data)
            size_bytes += file.write(data)
    return name, size_bytes, whole.hexdigest()
