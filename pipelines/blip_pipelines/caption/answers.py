"""What servers answered, kept beside a block until it is written: no captioner and no judge is asked twice for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from blip_bootstrap.storage.files import write_whole
from blip_bootstrap.stores.store import fetched, gone, sizes_there
from blip_pipelines.captioners.interface import Answer

ImageRow = dict[str, Any]

OfPicture = dict[str, Answer]
"""The answers about one picture, by what was wanted: `writer/prompt/candidate`."""

PREFIX = ".answers-"
"""What begins the names of files with captioners' answers."""

SCORES_PREFIX = ".scores-"
"""The same of judges'."""

Told = tuple[str, dict[str, float]]
"""A text that a judge has scored, and what it said, by its own names of scores."""


def name_of(writer: str, prompt: str, candidate: int) -> str:
    """What a wanted text of a picture is called among its answers."""
    return f"{writer}/{prompt}/{candidate}"


class BlockFiles:
    """Files beside a block that are there until it is written, one for each batch; `block` None: none at all."""

    def __init__(self, block: Path | None, prefix: str) -> None:
        self._block, self._prefix, self._count = block, prefix, 0

    def read(self) -> Iterator[Any]:
        """What earlier workers of the block have left, in its order."""
        for file in self._files():
            self._count += 1
            yield json.loads(fetched(file).read_text(encoding="utf-8"))

    def add(self, plain: object) -> None:
        """Write one more, which is on the disk before this returns."""
        if self._block:
            self._count += 1
            file = self._block.with_name(f"{self._prefix}{self._block.stem}-{self._count:06d}.json")
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(plain))

    def drop(self) -> None:
        """Delete them: the block is written."""
        for file in self._files():
            gone(file)

    def _files(self) -> list[Path]:
        if not self._block:
            return []
        folder, begin = self._block.parent, f"{self._prefix}{self._block.stem}-"
        names = {one.name for one in folder.glob(f"{begin}*.json")} | sizes_there(folder).keys()
        return [folder / name for name in sorted(names) if name.startswith(begin)]


class KeptScores:
    """What judges at servers said of a block's texts; each batch's scores are written beside the block as they come.

    By picture, and there by `judge/source/candidate`. A score that lacks is not kept, and asked for again.
    """

    def __init__(self, block: Path | None = None, known: Mapping[str, Mapping[str, Told]] | None = None) -> None:
        self._known: dict[str, dict[str, Told]] = {key: dict(told) for key, told in (known or {}).items()}
        self.new: dict[str, dict[str, Told]] = {}
        self._files = BlockFiles(block, SCORES_PREFIX)
        for plain in self._files.read():
            for key, told in plain.items():
                self._known.setdefault(key, {}).update({name: (text, of) for name, (text, of) in told.items()})

    def of(self, key: str) -> dict[str, Told]:
        """What is known of a picture's texts."""
        return self._known.get(key, {})

    def add(self, new: Mapping[str, Mapping[str, Told]]) -> None:
        """Keep new scores, on the disk before this returns."""
        for key, told in new.items():
            self._known.setdefault(key, {}).update(told)
            self.new.setdefault(key, {}).update(told)
        if new:
            self._files.add(new)

    def drop(self) -> None:
        """Delete the files: the block is written."""
        self._files.drop()


class KeptAnswers:
    """The answers about a block's pictures by key; each batch's new ones are written beside the block as they come.

    `place` is the block's file; None keeps them in memory alone (`new`). An answer that is none (`error`) is known for
    its cost, and asked for again. `scores` are what judges at servers said.
    """

    def __init__(
        self,
        place: Path | None = None,
        known: Mapping[str, OfPicture] | None = None,
        scores: KeptScores | None = None,
    ) -> None:
        self._files = BlockFiles(place, PREFIX)
        self._known: dict[str, OfPicture] = {key: dict(answers) for key, answers in (known or {}).items()}
        self.new: dict[str, OfPicture] = {}
        self.scores = scores or KeptScores()

    @classmethod
    def beside(cls, block: Path, known: Mapping[str, OfPicture] | None = None) -> Self:
        """Those that earlier workers of the block have left, over those that are `known`."""
        found = cls(block, known, KeptScores(block))
        for plain in found._files.read():
            for key, answers in plain.items():
                found._known.setdefault(key, {}).update({name: _answer(one) for name, one in answers.items()})
        return found

    def of(self, key: str) -> OfPicture:
        """The answers about a picture that are known."""
        return self._known.get(key, {})

    def add(self, new: Mapping[str, OfPicture]) -> None:
        """Keep new answers, on the disk before this returns. Some may be of pictures that have others already."""
        for key, answers in new.items():
            self._known.setdefault(key, {}).update(answers)
            self.new.setdefault(key, {}).update(answers)
        if new:
            self._files.add({key: {name: _plain(one) for name, one in answers.items()} for key, answers in new.items()})

    def drop(self) -> None:
        """Delete the files: the block is written."""
        self._files.drop()
        self.scores.drop()


class ImageRows(list[ImageRow]):
    """Rows of images with the answers that are known of them, which also says where new ones are kept."""

    kept: KeptAnswers


def _plain(answer: Answer) -> dict[str, object]:
    return {name: value for name, value in asdict(answer).items() if value not in (None, (), {})}


def _answer(plain: Mapping[str, object]) -> Answer:
    found = dict(plain)
    return Answer(**{**found, "flags": tuple(found.get("flags", ()))})  # type: ignore[arg-type]
