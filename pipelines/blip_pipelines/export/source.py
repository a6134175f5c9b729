"""The artifacts of a round that an export reads, and their parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.storage.keys import number_of
from blip_bootstrap.storage.parquet import parquet_files


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
    text in such a share of the epochs as its `rule_score`.
    """

    images: Path
    pairs: Path
    captions: Path | None
    judged_by: str | None = None
    is_weighted: bool = False

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
