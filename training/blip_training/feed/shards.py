"""The files that a training reads: image files with their pairs files, and the files of a human-annotated set."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from blip_bootstrap.storage.parquet import parquet_files, read_parquet

Split = Literal["all", "train", "validation"]
"""The whole of a human-annotated set, the nine tenths of its pictures for training, or the tenth for validation."""


@dataclass(frozen=True)
class Drawing:
    """Which of a picture's kept texts an epoch has.

    All of them, or one, drawn anew in each epoch. `web` and `synthetic` are the shares (0..1) of the epochs that a text
    of that source is in; where an epoch has one text of a picture, they say how likely each is to be drawn.
    """

    texts_per_image: Literal["all", "one"] = "all"
    web: float = 1.0
    synthetic: float = 1.0

    @property
    def has_weights(self) -> bool:
        """Whether texts of the two sources are drawn unequally, or not in every epoch."""
        return (self.web, self.synthetic) != (1.0, 1.0)


@dataclass(frozen=True)
class Shard:
    """An image file joined with its pairs file; a human set's captions are in the image file itself.

    Pictures whose keys are in `left_out` give no samples. `split` divides a human set by a hash of the pictures' keys.
    """

    name: str
    images: Path
    pairs: Path | None
    split: Split = "all"
    left_out: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    drawing: Drawing = Drawing()

    def captions(self) -> dict[int, list[str]]:
        """The texts of each picture of a human set, by image id; reads the small columns only."""
        table = read_parquet(self.images, ["key", "captions", "status", "sha256"])
        table = table.filter(self.usable(table))
        found: dict[int, list[str]] = {}
        for image_id, texts in zip(image_ids(self.name, table), table["captions"].to_pylist(), strict=True):
            if texts:
                found.setdefault(image_id, []).extend(folded(texts))
        return found

    def usable(self, table: pa.Table) -> pa.Array:
        """Of rows of a human set, which have a picture and belong to `split`."""
        usable = pc.and_(pc.equal(table["status"], "success"), self._not_left_out(table["key"])).combine_chunks()
        if self.split == "all":
            return usable
        wanted = self.split == "validation"
        return pc.and_(usable, pa.array([is_for_validation(key) == wanted for key in table["key"].to_pylist()]))

    def kept(self, pairs: pa.Table) -> pa.Array:
        """Of rows of the pairs file, which are trained on."""
        return pc.and_(pairs["kept"], self._not_left_out(pairs["key"])).combine_chunks()

    def weights(self, pairs: pa.Table) -> NDArray[np.float64] | None:
        """The share of the epochs (0..1) that each of these texts is in, or how likely it is; None where all are equal.

        Where the rule that made the pairs says `weights: rule`, a text weighs as much as its rule score; without one it
        has no weight.
        """
        by_rule = is_by_rule(pairs.schema.metadata)
        if not (by_rule or self.drawing.has_weights):
            return None
        weights = np.ones(len(pairs))
        if by_rule:
            weights = np.clip(np.nan_to_num(pairs["rule_score"].to_numpy().astype(np.float64)), 0.0, 1.0)
        if self.drawing.has_weights:
            is_web = pc.equal(pairs["source"], "web").to_numpy()
            weights = weights * np.where(is_web, self.drawing.web, self.drawing.synthetic)
        return weights

    def columns_of(self, metadata: Mapping[bytes, bytes] | None) -> list[str]:
        """The small columns of the pairs file that `kept` and `weights` look at; `metadata` is that of the file."""
        by_rule = ["rule_score"] if is_by_rule(metadata) else []
        return ["key", "kept", *by_rule, *(["source"] if self.drawing.has_weights else [])]

    def _not_left_out(self, keys: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.invert(pc.is_in(keys, _as_array(self.left_out)))


@lru_cache(maxsize=8)
def _as_array(keys: frozenset[str]) -> pa.Array:
    """Keys as Arrow has them; each row group is asked about the same ones."""
    return pa.array(sorted(keys), pa.string())


Draws = Literal["plan", "window", "texts", "batch"]

_NUMBERS: dict[Draws, int] = {"plan": 1, "window": 2, "texts": 3, "batch": 4}


def rng_of(what: Draws, *numbers: int) -> np.random.Generator:
    """The generator of one draw of the feed, by its kind and numbers: seed first, then epoch, lane and so on.

    The kind comes first, since numpy takes (seed, epoch) and (seed, epoch, 0) for the same seed.
    """
    return np.random.default_rng((_NUMBERS[what], *numbers))


def is_by_rule(metadata: Mapping[bytes, bytes] | None) -> bool:
    """Whether the rule that made a pairs file, which is in its metadata, says `weights: rule`."""
    rule = (metadata or {}).get(b"rule")
    return rule is not None and json.loads(rule).get("weights") == "rule"


def is_for_validation(key: str) -> bool:
    """Whether a human set's picture belongs to the tenth by which fine-tuning chooses its best step."""
    return zlib.crc32(key.encode()) % 10 == 0


def folded(texts: list[str] | None) -> list[str]:
    """Texts with their whitespace folded."""
    return [" ".join(text.split()) for text in texts or ()]


def image_id_of(name: str, key: str) -> int:
    """A 63-bit number from a set's name and a picture's key, by which batches know the picture."""
    return _number(f"{name}/{key}")


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def image_ids(name: str, table: pa.Table) -> list[int]:
    """The image ids of rows of a set: those of one picture have one id, in whichever file, and of whichever set.

    By the sha256 of the bytes that were fetched or read; where a row has none, by its key, or by the key of the earlier
    row that it names in `same_as`.
    """
    nulls = [None] * len(table)
    known = {column: table[column].to_pylist() for column in ("sha256", "same_as") if column in table.column_names}
    rows = zip(table["key"].to_pylist(), known.get("sha256", nulls), known.get("same_as", nulls), strict=True)
    return [_number(f"sha256/{sha256}") if sha256 else image_id_of(name, first or key) for key, sha256, first in rows]


def web_shards(
    images: Path, pairs: Path, left_out: frozenset[str] = frozenset(), drawing: Drawing | None = None
) -> list[Shard]:
    """Image files with the pairs files of the same names, without the pictures whose keys are in `left_out`."""
    drawing = drawing or Drawing()
    files = parquet_files(pairs)
    return [Shard("web", images / file.name, file, left_out=left_out, drawing=drawing) for file in files]


def annotated_shards(
    folder: Path, split: Split = "all", left_out: frozenset[str] = frozenset(), drawing: Drawing | None = None
) -> list[Shard]:
    """The files of a human-annotated set, with the pictures of `split` that are not in `left_out`."""
    drawing = drawing or Drawing()
    return [Shard("human", file, None, split, left_out, drawing) for file in parquet_files(folder)]


def known_texts(images: Path | None, human: Path | None) -> Iterator[list[str]]:
    """All texts that stand in a run's tables before a captioner writes: file by file alt texts, then human captions.

    Alt texts are those of all pictures, trained on or not, so that what is made of them is the same in every round.
    """
    for file in parquet_files(images) if images else ():
        yield folded(read_parquet(file, ["caption"])["caption"].drop_null().to_pylist())
    for shard in annotated_shards(human) if human else ():
        yield [text for texts in shard.captions().values() for text in texts]
