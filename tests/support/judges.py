"""Judges for tests: one whose scores depend on its pair alone, and ones that fail."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import ConfigError
from blip_pipelines.judges.interface import Pair, Scores, VariesWith


class Plain:
    """Scores 0..1 that picture and text determine, `first` and `second`; notes each call in the file `calls`.

    `at_most` pairs fit in its memory. Texts with a word of `fails` have no score, for the reason that it names, and
    texts with the word `raises` make it raise, and those with `kills` end its process.
    """

    names: tuple[str, ...] = ("first", "second")
    varies_with: VariesWith = "nothing"

    def __init__(self, options: Mapping[str, Any]) -> None:
        if unknown := sorted(options.keys() - {"salt", "fails", "raises", "kills", "at_most", "calls"}):
            raise ConfigError([f"options.{unknown[0]}: there is no such option"])
        self.options = dict(options)
        self.digest = f"plain {options.get('salt', '')}"

    def load(self, device: str, dtype: str) -> None:
        assert device in ("cpu", "cuda")

    def score(self, pairs: Sequence[Pair]) -> Sequence[Mapping[str, float | None]]:
        if calls := self.options.get("calls"):
            with Path(calls).open("a") as file:
                file.write(f"{len(pairs)}\n")
        if len(pairs) > self.options.get("at_most", 10_000):
            raise MemoryError
        return [self._score(*pair) for pair in pairs]

    def _score(self, picture: Any, text: str) -> Mapping[str, float | None]:
        words = set(text.split())
        if self.options.get("kills") in words:
            os._exit(1)
        if self.options.get("raises") in words:
            raise ValueError("a picture of one pixel")
        for word, reason in self.options.get("fails", {}).items():
            if word in words:
                return Scores.failed(self.names, reason) if reason else {}
        told = f"{self.options.get('salt', '')} {text} {picture.tobytes().hex()}"
        number = hashlib.sha256(told.encode()).digest()
        return {"first": number[0] / 256, "second": number[1] / 256}


class One(Plain):
    """The same with the first score alone, under its own name."""

    names = ("score",)

    def _score(self, picture: Any, text: str) -> Mapping[str, float | None]:
        found = super()._score(picture, text)
        return {"score": found["first"]} if "first" in found else found


class Drifting(Plain):
    """Claims that its scores depend on nothing, and tells where in a batch a pair stands."""

    def score(self, pairs: Sequence[Pair]) -> Sequence[Mapping[str, float | None]]:
        return [{"first": float(at), "second": 0.0} for at, _ in enumerate(pairs)]
