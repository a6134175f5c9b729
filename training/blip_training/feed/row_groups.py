"""One row group of an image file in memory, with the texts that its pictures are trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from blip_bootstrap.errors import InputError
from blip_bootstrap.storage.parquet import open_parquet, reading
from blip_training.feed.shards import Shard, folded, image_ids, rng_of


@dataclass(frozen=True)
class RowGroup:
    """The pictures of a row group that have texts, encoded, with keys and image ids, and the texts in their order.

    `rows` has the picture of each text, `weights` (0..1) how often or how likely it is drawn, None where all are equal.
    """

    shard: Shard
    pictures: pa.ChunkedArray
    keys: list[str]
    ids: list[int]
    rows: NDArray[np.int64]
    texts: list[str]
    weights: NDArray[np.float64] | None

    def drawn(self, count: int, seed: int, epoch: int, number: int) -> NDArray[np.int64]:
        """The texts of one epoch, `count` of them; `number` is the row group's among all of the set.

        Where texts have weights and an epoch has all of a picture, systematic sampling: one random start, then equal
        steps along the sum of the weights. A text of weight w comes in a share w of the epochs, none twice in one but
        for rounding, and similar texts of a picture, which stand side by side, seldom together.
        """
        if self.shard.drawing.texts_per_image == "one" and self.texts:
            return self._one_of_each(seed, epoch)
        if self.weights is None or not self.texts:
            return np.arange(len(self.texts))
        ends = np.cumsum(self.weights)
        start = rng_of("texts", seed, epoch, number).random()
        points = (np.arange(count) + start) * (ends[-1] / max(1, count))
        found: NDArray[np.int64] = np.minimum(np.searchsorted(ends, points, side="right"), len(ends) - 1)
        return found

    def _one_of_each(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """A text of each picture, drawn by (seed, epoch, key) and the weights."""
        weights = np.ones(len(self.texts)) if self.weights is None else self.weights
        lasts = np.flatnonzero(np.diff(self.rows, append=-1))
        firsts = np.concatenate([[0], lasts[:-1] + 1])
        most = np.maximum.reduceat(weights, firsts)
        can = most > 0
        # As shares of the picture's largest: a weight of 1e-13 would be lost in a sum of thousands.
        weights = weights / np.repeat(np.where(can, most, 1.0), lasts - firsts + 1)
        ends = np.cumsum(weights)
        below, above = ends[firsts] - weights[firsts], ends[lasts]
        name = self.shard.name
        shares = np.array([_share(f"{seed}/{epoch}/{name}/{self.keys[row]}") for row in self.rows[firsts[can]]])
        places = np.searchsorted(ends, below[can] + shares * (above[can] - below[can]), side="right")
        found: NDArray[np.int64] = np.minimum(places, lasts[can])
        return found


def _share(name: str) -> float:
    """A number from 0 to 1 (excluded) that a name decides."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "big") / (1 << 48)


@dataclass(frozen=True)
class Sample:
    """One (image, text) pair of a row group, with the group's encoded bytes at hand."""

    group: RowGroup
    row: int
    text: str
    epoch: int

    @property
    def shard(self) -> Shard:
        """The file that it is from."""
        return self.group.shard

    @property
    def key(self) -> str:
        """The picture's key in its set."""
        return self.group.keys[self.row]

    @property
    def image_id(self) -> int:
        """A 63-bit number, equal for all texts of one image; see `image_ids`."""
        return self.group.ids[self.row]

    @property
    def where(self) -> str:
        """File and key, for messages."""
        return f"{self.shard.images}: key {self.key}"

    def encoded(self) -> bytes:
        """The picture's bytes as stored."""
        jpg = self.group.pictures[self.row].as_py()
        if not jpg:
            raise InputError(f"{self.where}: has a training text but no picture; make the pairs anew")
        return bytes(jpg)


Footers = Callable[[Path], pq.FileMetaData]
"""The footer of a Parquet file, which may be known."""


def read_footer(path: Path) -> pq.FileMetaData:
    """Read the footer of a Parquet file."""
    with reading(path), open_parquet(path) as file:
        return file.metadata


def read_row_group(shard: Shard, number: int, texts: tuple[int, int], footer: Footers = read_footer) -> RowGroup:
    """Read row group `number` of a shard; `texts` are the first and the last row group of its pairs file to look in."""
    if shard.pairs is None:
        return _read_annotated(shard, number, footer)
    images = _read(shard.images, number, ["key", "jpg", "same_as", "sha256"], footer)
    with reading(shard.pairs), open_parquet(shard.pairs, footer(shard.pairs)) as file:
        columns = ["caption", *shard.columns_of(file.schema_arrow.metadata)]
        pairs = file.read_row_groups([*range(texts[0], texts[1] + 1)], columns)
    pairs = pairs.filter(shard.kept(pairs))
    found = pc.index_in(pairs["key"], images["key"].combine_chunks())
    mine = pc.is_valid(found)
    rows, pairs = found.filter(mine).to_numpy().astype(np.int64), pairs.filter(mine)
    order = np.argsort(rows, kind="stable")
    rows, pairs = rows[order], pairs.take(pa.array(order))
    return _joined(shard, images, rows, pairs["caption"].to_pylist(), shard.weights(pairs))


def _read_annotated(shard: Shard, number: int, footer: Footers = read_footer) -> RowGroup:
    table = _read(shard.images, number, ["key", "captions", "status", "jpg", "sha256"], footer)
    table = table.filter(shard.usable(table))
    captions = table["captions"].to_pylist()
    rows = np.repeat(np.arange(len(captions)), [len(texts or ()) for texts in captions]).astype(np.int64)
    return _joined(shard, table, rows, [text for texts in captions for text in texts or ()], None)


def _joined(
    shard: Shard, images: pa.Table, rows: NDArray[np.int64], texts: list[str], weights: NDArray[np.float64] | None
) -> RowGroup:
    """The group of the pictures that have texts: the others are freed."""
    kept, rows = np.unique(rows, return_inverse=True)
    images = images.take(pa.array(kept))
    ids = image_ids(shard.name, images)
    return RowGroup(shard, images["jpg"], images["key"].to_pylist(), ids, rows, folded(texts), weights)


def _read(path: Path, number: int, columns: list[str], footer: Footers) -> pa.Table:
    """Those columns of a row group that the file has: some are younger than files that people have."""
    with reading(path), open_parquet(path, footer(path)) as file:
        return file.read_row_group(number, columns)


def row_groups_of(shard: Shard) -> Iterator[RowGroup]:
    """The row groups of a file of a human set, one after the other."""
    return (_read_annotated(shard, at) for at in range(read_footer(shard.images).num_row_groups))
