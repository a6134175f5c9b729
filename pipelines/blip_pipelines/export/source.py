"""The artifacts of a round that an export reads, and their parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.closed_lists import NOT_LISTED
from blip_bootstrap.schemas.keys import number_of, part_of
from blip_bootstrap.storage.parquet import parquet_files, read_parquet


@dataclass(frozen=True)
class Part:
    """Files of the same rows: pictures, verdicts on their texts, and (not in round 0) the texts' scores."""

    number: int
    images: str
    pairs: str
    captions: str | None

    @property
    def name(self) -> str:
        """The part's number as file names have it: at least five digits."""
        return f"{self.number:05d}"


@dataclass(frozen=True)
class Source:
    """A round: folders of its tables, and what its rule says about the texts.

    `judged_by` is the column of the score by which the rule judged, None in round 0. `is_weighted`: training takes a
    text in such a share of the epochs as its `rule_score`. `left_out` are keys of the pictures that training leaves
    out, because the held-out or the human set has them too.
    """

    images: Path
    pairs: Path
    captions: Path | None
    judged_by: str | None = None
    is_weighted: bool = False
    left_out: frozenset[str] = frozenset()

    def goes_out(self, texts: pa.Table, every: bool) -> pa.ChunkedArray:
        """Which texts go out: the kept ones of pictures that are trained on, or `every` one of a row of the lists."""
        if every:
            return pc.fill_null(pc.not_equal(texts["reason"], NOT_LISTED), True)
        return pc.and_not(texts["kept"], self.is_left_out(texts))

    def is_left_out(self, texts: pa.Table) -> pa.ChunkedArray:
        """Which texts are of pictures that training leaves out."""
        return pc.is_in(texts["key"], pa.array(sorted(self.left_out), pa.string()))

    def num_left_out(self) -> int:
        """How many kept texts are of pictures that training leaves out; reads the pairs of the parts that have one."""
        numbers, found = {part_of(key) for key in self.left_out}, 0
        for file in parquet_files(self.pairs) if numbers else []:
            if number_of(file.name) in numbers:
                texts = read_parquet(file, ["key", "kept"])
                found += int(pc.sum(pc.and_(texts["kept"], self.is_left_out(texts))).as_py() or 0)
        return found

    def parts(self) -> Iterator[Part]:
        """The parts in order. Raises InputError where a file of pairs has no file of images or captions beside it."""
        images = {file.name: str(file.absolute()) for file in parquet_files(self.images)}
        captions = {file.name: str(file.absolute()) for file in parquet_files(self.captions)} if self.captions else {}
        for file in parquet_files(self.pairs):
            known = [(self.images, images)] + ([(self.captions, captions)] if self.captions else [])
            for folder, files in known:
                if file.name not in files:
                    raise InputError(f"{folder}: has no {file.name}, whose texts {file} judges; run the round again")
            yield Part(number_of(file.name), images[file.name], str(file.absolute()), captions.get(file.name))


@dataclass(frozen=True)
class Ledger:
    """What is known of a round as a whole: its run's name, its number, and the manifests of what it is made of."""

    run: str
    round: int
    manifests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def counts(self, name: str) -> Mapping[str, Any]:
        """The counts of an artifact, by its name in the run; empty where the round has none."""
        found: Mapping[str, Any] = self.manifests.get(name, {}).get("counts", {})
        return found

    @property
    def pairs(self) -> Mapping[str, Any]:
        """The counts of the round's pairs."""
        return self.counts(f"round-{self.round:02d}/pairs")

    def digests(self) -> dict[str, str]:
        """The digest of the content of each artifact."""
        return {name: str(one.get("content")) for name, one in sorted(self.manifests.items())}
