"""Answers of plugged-in captioners kept beside a block until it is written: none of them is asked twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.storage.store import fetched, gone, sizes_there
from blip_pipelines.captioners.interface import Answer

ImageRow = dict[str, Any]

OfPicture = dict[str, Answer]
"""The answers about one picture, by what was wanted: `writer/prompt/candidate`."""

PREFIX = ".answers-"


def name_of(writer: str, prompt: str, candidate: int) -> str:
    """What a wanted text of a picture is called among its answers."""
    return f"{writer}/{prompt}/{candidate}"


class KeptAnswers:
    """The answers about a block's pictures by key; each batch's new ones are written beside the block as they come.

    `place` is the block's file; None keeps them in memory alone (`new`). An answer that is none (`error`) is known for
    its cost, and asked for again.
    """

    def __init__(self, place: Path | None = None, known: Mapping[str, OfPicture] | None = None) -> None:
        self._place = place
        self._known: dict[str, OfPicture] = {key: dict(answers) for key, answers in (known or {}).items()}
        self.new: dict[str, OfPicture] = {}
        self._count = 0

    @classmethod
    def beside(cls, block: Path, known: Mapping[str, OfPicture] | None = None) -> Self:
        """Those that earlier workers of the block have left, over those that are `known`."""
        found = cls(block, known)
        for file in found._files():
            found._take(json.loads(fetched(file).read_text(encoding="utf-8")))
        return found

    def of(self, key: str) -> OfPicture:
        """The answers about a picture that are known."""
        return self._known.get(key, {})

    def of_some(self, keys: list[str]) -> dict[str, OfPicture]:
        """The answers about these pictures that are known."""
        return {key: self._known[key] for key in keys if key in self._known}

    def add(self, new: Mapping[str, OfPicture]) -> None:
        """Keep new answers, on the disk before this returns. Some may be of pictures that have others already."""
        for key, answers in new.items():
            self._known.setdefault(key, {}).update(answers)
            self.new.setdefault(key, {}).update(answers)
        if self._place and new:
            self._count += 1
            plain = {key: {name: _plain(one) for name, one in answers.items()} for key, answers in new.items()}
            file = self._place.with_name(f"{PREFIX}{self._place.stem}-{self._count:06d}.json")
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(plain))

    def drop(self) -> None:
        """Delete the files: the block is written."""
        for file in self._files():
            gone(file)

    def _files(self) -> list[Path]:
        if not self._place:
            return []
        folder, begin = self._place.parent, f"{PREFIX}{self._place.stem}-"
        names = {one.name for one in folder.glob(f"{begin}*.json")} | sizes_there(folder).keys()
        return [folder / name for name in sorted(names) if name.startswith(begin)]

    def _take(self, plain: Mapping[str, Mapping[str, Mapping[str, object]]]) -> None:
        self._count += 1
        for key, answers in plain.items():
            self._known.setdefault(key, {}).update({name: _answer(one) for name, one in answers.items()})


class ImageRows(list[ImageRow]):
    """Rows of images with the answers that are known of them, which also says where new ones are kept."""

    kept: KeptAnswers


def _plain(answer: Answer) -> dict[str, object]:
    return {name: value for name, value in asdict(answer).items() if value not in (None, (), {})}


def _answer(plain: Mapping[str, object]) -> Answer:
    found = dict(plain)
    return Answer(**{**found, "flags": tuple(found.get("flags", ()))})  # type: ignore[arg-type]
