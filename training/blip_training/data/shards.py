"""Endless shuffled samples from image files: which sample stands at which position, with its bytes and text."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from blip_bootstrap.errors import InputError
from blip_bootstrap.storage.parquet import parquet_files, read_metadata, read_parquet
from blip_bootstrap.storage.store import is_there, size_of

WINDOW_BYTES = 1 << 30

Split = Literal["all", "train", "validation"]
"""The whole of a human-annotated set, the nine tenths of its pictures for training, or the tenth for validation."""


@dataclass(frozen=True)
class Sample:
    """One (image, text) pair of a shard, with the shard's encoded bytes at hand."""

    shard: Shard
    row: int
    key: str
    text: str
    epoch: int
    position: int

    @property
    def image_id(self) -> int:
        """A 63-bit number from the set's name and the key, equal for all texts of one image.

        A row that names an earlier one in `same_as` has the same image as that.
        """
        return image_id_of(self.shard.name, self.shard.contents.first_keys.get(self.key, self.key))

    @property
    def where(self) -> str:
        """File and key, for messages."""
        return f"{self.shard.images}: key {self.key}"

    def encoded(self) -> bytes:
        """The picture's bytes as stored."""
        jpg = self.shard.contents.pictures[self.row].as_py()
        if not jpg:
            raise InputError(f"{self.where}: has a training text but no picture; make the pairs anew")
        return bytes(jpg)


def image_id_of(name: str, key: str) -> int:
    """A 63-bit number from a set's name and a picture's key, by which batches know the picture."""
    digest = hashlib.blake2b(f"{name}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class ShardContents:
    """A shard in memory: encoded pictures with their keys, and for each text its row among them.

    `weights` are the texts' shares of epochs, 0..1, where the shard is drawn by weight. `first_keys` has the keys of
    pictures that are copies, with those of the rows of which they are.
    """

    pictures: pa.ChunkedArray
    keys: list[str]
    rows: list[int]
    texts: list[str]
    weights: NDArray[np.float64] | None = None
    first_keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Shard:
    """An image file joined with its pairs file; a human set's captions are in the image file itself.

    Pictures whose keys are in `left_out` give no samples. `split` divides a human set by a hash of the pictures' keys.
    Where the rule that made the pairs says `weights: rule`, a text is in such a share of the epochs as its rule score.
    """

    name: str
    images: Path
    pairs: Path | None
    split: Split = "all"
    left_out: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    @cached_property
    def num_samples(self) -> int:
        """The number of samples of an epoch: kept pairs (by weight: the sum of their weights) or human captions.

        Reads the small columns only.
        """
        if self.pairs and self.is_weighted:
            total = float(_weights(self._kept(self.pairs, ["kept", "rule_score"])).sum())
            return max(round(total), int(total > 0))
        if self.pairs:
            return len(self._kept(self.pairs, ["kept"]))
        table = self._usable(read_parquet(self.images, ["key", "captions", "status"]))
        return int(pc.sum(pc.list_value_length(table["captions"])).as_py() or 0)

    @cached_property
    def is_weighted(self) -> bool:
        """Whether an epoch draws texts by their weights, in place of taking each once."""
        rule = read_metadata(self.pairs).get(b"rule") if self.pairs else None
        return rule is not None and json.loads(rule).get("weights") == "rule"

    @property
    def num_texts(self) -> int:
        """The number of texts from which an epoch's samples come."""
        return len(self.contents.texts) if self.is_weighted else self.num_samples

    def drawn(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """The texts of one epoch, `num_samples` of them: all, or drawn by weight.

        Systematic sampling: one random start, then equal steps along the sum of the weights. A text of weight w comes
        in a share w of the epochs, none twice in one but for rounding, and similar texts of a picture, which stand side
        by side, seldom together.
        """
        if not self.is_weighted:
            return np.arange(self.num_samples)
        assert self.contents.weights is not None
        ends = np.cumsum(self.contents.weights)
        points = (np.arange(self.num_samples) + rng.random()) * (ends[-1] / self.num_samples)
        found: NDArray[np.int64] = np.minimum(np.searchsorted(ends, points, side="right"), len(ends) - 1)
        return found

    @cached_property
    def size_bytes(self) -> int:
        """The size of the image file on disk."""
        return size_of(self.images) or 0

    @cached_property
    def contents(self) -> ShardContents:
        """Read on first use; `forget` frees it."""
        return self._read_web(self.pairs) if self.pairs else self._read_annotated()

    def captions(self) -> dict[int, list[str]]:
        """The texts of each picture of a human set, by image id; reads the small columns only."""
        table = self._usable(read_parquet(self.images, ["key", "captions", "status"]))
        rows = zip(table["key"].to_pylist(), table["captions"].to_pylist(), strict=True)
        return {image_id_of(self.name, key): [" ".join(text.split()) for text in texts] for key, texts in rows if texts}

    def forget(self) -> None:
        """Free the memory of `contents`."""
        self.__dict__.pop("contents", None)

    def _read_web(self, pairs: Path) -> ShardContents:
        scores = ["rule_score"] if self.is_weighted else []
        kept = self._kept(pairs, ["key", "caption", "kept", *scores])
        images = read_parquet(self.images, ["key", "jpg", "same_as"])
        images = images.filter(pc.is_in(images["key"], kept["key"].combine_chunks()))
        row_of = {key: row for row, key in enumerate(images["key"].to_pylist())}
        keys = kept["key"].to_pylist()
        if missing := next((key for key in keys if key not in row_of), None):
            raise InputError(f"{pairs}: key {missing} is not in {self.images}; make the pairs anew")
        texts = [" ".join(text.split()) for text in kept["caption"].to_pylist()]
        rows, weights = [row_of[key] for key in keys], _weights(kept) if scores else None
        return ShardContents(images["jpg"], list(row_of), rows, texts, weights, _first_keys(images))

    def _read_annotated(self) -> ShardContents:
        table = self._usable(read_parquet(self.images, ["key", "captions", "status", "jpg"]))
        keys = table["key"].to_pylist()
        captions = table["captions"].to_pylist()
        rows = [row for row, texts in enumerate(captions) for _ in texts or ()]
        texts = [" ".join(text.split()) for texts in captions for text in texts or ()]
        return ShardContents(table["jpg"], keys, rows, texts)

    def _kept(self, pairs: Path, columns: list[str]) -> pa.Table:
        """The pairs that are trained on."""
        if not self.left_out:
            return read_parquet(pairs, columns).filter(pc.field("kept"))
        return self._without(read_parquet(pairs, list({*columns, "key"})).filter(pc.field("kept")))

    def _without(self, table: pa.Table) -> pa.Table:
        """The rows whose picture is not left out."""
        keys = pa.array(sorted(self.left_out), pa.string())
        return table.filter(pc.invert(pc.is_in(table["key"], keys))) if len(keys) else table

    def _usable(self, table: pa.Table) -> pa.Table:
        """The rows with a picture that belong to `split`."""
        table = self._without(table.filter(pc.equal(table["status"], "success")))
        if self.split == "all":
            return table
        wanted = self.split == "validation"
        return table.filter(pa.array([(zlib.crc32(k.encode()) % 10 == 0) == wanted for k in table["key"].to_pylist()]))


def _first_keys(images: pa.Table) -> dict[str, str]:
    """The rows that name another, whose picture they have, with that one."""
    if "same_as" not in images.column_names:  # images of an earlier version
        return {}
    copies = images.select(["key", "same_as"]).filter(pc.is_valid(images["same_as"]))
    return dict(zip(copies["key"].to_pylist(), copies["same_as"].to_pylist(), strict=True))


def _weights(pairs: pa.Table) -> NDArray[np.float64]:
    """Rule scores as weights, 0..1; a text without one has none."""
    scores = pairs["rule_score"].to_numpy().astype(np.float64)
    weights: NDArray[np.float64] = np.clip(np.nan_to_num(scores), 0.0, 1.0)
    return weights


def web_shards(images: Path, pairs: Path, left_out: frozenset[str] = frozenset()) -> list[Shard]:
    """Image files with the pairs files of the same names, without the pictures whose keys are in `left_out`.

    Raises InputError if a pairs file has no image file.
    """
    shards = []
    for file in parquet_files(pairs):
        if not is_there(images / file.name):
            raise InputError(f"{file}: its image file {images / file.name} is missing; make the images anew")
        shards.append(Shard("web", images / file.name, file, left_out=left_out))
    return shards


def annotated_shards(folder: Path, split: Split = "all", left_out: frozenset[str] = frozenset()) -> list[Shard]:
    """The files of a human-annotated set, with the pictures of `split` that are not in `left_out`."""
    return [Shard("human", file, None, split, left_out) for file in parquet_files(folder)]


def known_texts(images: Path | None, human: Path | None) -> Iterator[list[str]]:
    """All texts that stand in a run's tables before a captioner writes: file by file alt texts, then human captions.

    Alt texts are those of all pictures, trained on or not, so that what is made of them is the same in every round.
    """
    for file in parquet_files(images) if images else ():
        texts = read_parquet(file, ["caption"])["caption"].drop_null().to_pylist()
        yield [" ".join(text.split()) for text in texts]
    for shard in annotated_shards(human) if human else ():
        yield [text for texts in shard.captions().values() for text in texts]


class Stream:
    """Endless shuffled samples of one set: the sample at a position is fixed, on every worker and after every restart.

    Each epoch permutes the shards, cuts them into windows of about `window_bytes` of encoded pictures, and permutes
    the samples in each window, those that it draws where texts have weights. Only one window is in memory; a set that
    fits is read once. A position is found by arithmetic, so that a resumed run does not read again what it has passed.
    """

    def __init__(self, shards: Sequence[Shard], seed: int, window_bytes: int = WINDOW_BYTES) -> None:
        self.shards = [shard for shard in shards if shard.num_samples]
        self.num_samples = sum(shard.num_samples for shard in self.shards)
        self.seed, self.window_bytes = seed, window_bytes
        self._plan: tuple[int, list[tuple[Shard, ...]], list[int]] | None = None
        self._window: tuple[int, int] | None = None
        self._order: np.ndarray[tuple[int], np.dtype[np.int64]] = np.empty(0, dtype=np.int64)

    def samples(self, start: int, count: int) -> Iterator[Sample]:
        """The samples at positions start .. start + count - 1."""
        for position in range(start, start + count):
            yield self._at(position)

    def _at(self, position: int) -> Sample:
        epoch, offset = divmod(position, self.num_samples)
        windows, starts = self._windows(epoch)
        number = int(np.searchsorted(starts, offset, side="right")) - 1
        self._enter(epoch, number, windows[number])
        index = int(self._order[offset - starts[number]])
        for shard in windows[number]:
            if index < shard.num_texts:
                row = shard.contents.rows[index]
                return Sample(shard, row, shard.contents.keys[row], shard.contents.texts[index], epoch, position)
            index -= shard.num_texts
        raise AssertionError(f"position {position} is past its window")

    def _windows(self, epoch: int) -> tuple[list[tuple[Shard, ...]], list[int]]:
        """The epoch's windows, and the offset at which each starts."""
        if self._plan is None or self._plan[0] != epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.shards))
            windows: list[tuple[Shard, ...]] = [()]
            for shard in (self.shards[i] for i in order):
                held = sum(s.size_bytes for s in windows[-1])
                if windows[-1] and held + shard.size_bytes > self.window_bytes:
                    windows.append(())
                windows[-1] += (shard,)
            sizes = [sum(s.num_samples for s in window) for window in windows]
            self._plan = epoch, windows, [0, *accumulate(sizes)][:-1]
        return self._plan[1], self._plan[2]

    def _enter(self, epoch: int, number: int, window: tuple[Shard, ...]) -> None:
        """Forget the shards that are not in a new window, then draw and permute its samples."""
        if self._window == (epoch, number):
            return
        self._window = epoch, number
        for shard in self.shards:
            if shard not in window:
                shard.forget()
        rng = np.random.default_rng((self.seed, epoch, number))
        firsts = accumulate((shard.num_texts for shard in window), initial=0)
        texts = [first + shard.drawn(rng) for first, shard in zip(firsts, window, strict=False)]
        self._order = rng.permutation(np.concatenate(texts))
