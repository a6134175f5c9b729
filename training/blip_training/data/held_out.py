"""A held-out set in memory: encoded pictures with their captions, and the set's distinct texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow.compute as pc
import torch
from torch import Tensor

from blip_bootstrap.errors import InputError
from blip_bootstrap.storage.parquet import parquet_files, read_parquet
from blip_training.data.pixels import decode_pixels


@dataclass(frozen=True)
class Picture:
    """One picture of a human-annotated set."""

    key: str
    name: str
    domain: str | None
    captions: tuple[str, ...]
    jpg: bytes
    file: Path


@dataclass(frozen=True)
class HeldOut:
    """The readable pictures of a set, and its texts.

    A text that people wrote about several pictures counts once, and is right for each of them.
    """

    pictures: list[Picture]

    @cached_property
    def texts(self) -> list[str]:
        """The distinct texts, in the order of the pictures."""
        return list(dict.fromkeys(text for picture in self.pictures for text in picture.captions))

    @cached_property
    def own(self) -> list[list[int]]:
        """The indices of each picture's texts in `texts`."""
        index = {text: i for i, text in enumerate(self.texts)}
        return [sorted({index[text] for text in picture.captions}) for picture in self.pictures]

    @cached_property
    def domains(self) -> dict[str, list[int]]:
        """The indices of each domain's pictures; empty if the set has no domains."""
        found: dict[str, list[int]] = {}
        for i, picture in enumerate(self.pictures):
            if picture.domain:
                found.setdefault(picture.domain, []).append(i)
        return found

    def pixels(self, image_size: int, batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
        """Batches of indices and uint8 pixels [B, 3, image_size, image_size]."""
        for start in range(0, len(self.pictures), batch_size):
            batch = self.pictures[start : start + batch_size]
            rows = [decode_pixels(p.jpg, image_size, f"{p.file}: key {p.key}") for p in batch]
            yield list(range(start, start + len(batch))), torch.stack(rows)


def read_held_out(folder: Path, limit: int | None = None) -> HeldOut:
    """The first `limit` pictures of an annotated set that could be read and have captions.

    Raises InputError if there is none.
    """
    pictures: list[Picture] = []
    for file in parquet_files(folder):
        table = read_parquet(file, ["key", "name", "domain", "captions", "status", "jpg"])
        for row in table.filter(pc.equal(table["status"], "success")).to_pylist():
            captions = tuple(" ".join(text.split()) for text in row["captions"] or () if text.strip())
            if captions:
                pictures.append(Picture(row["key"], row["name"], row["domain"], captions, row["jpg"], file))
        if limit and len(pictures) >= limit:
            break
    if not pictures:
        raise InputError(f"{folder}: no readable picture with a caption; at least one is needed")
    return HeldOut(pictures[:limit])


def chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """`items` in chunks of `size`; the last one may be shorter."""
    return (items[i : i + size] for i in range(0, len(items), size))
