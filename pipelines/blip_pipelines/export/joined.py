"""Pictures joined with their texts, a few hundred pictures at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.schema import Table
from blip_bootstrap.schemas.tables import CAPTIONS, IMAGES, PAIRS
from blip_bootstrap.storage.parquet import open_parquet, reading
from blip_pipelines.export.source import Part, Source

ROWS_AT_ONCE = 500

PICTURE = "jpg"

_NOT_TOLD = ("caption", "cut_from_chars", "status", "error_class", "error_message", "attempts", PICTURE)
"""Columns of `images` that say nothing of a picture that is there, or are told with its texts."""

ABOUT_PICTURES = tuple(name for name in IMAGES.schema.names if name not in _NOT_TOLD)

_FIRST = ("caption", "source", "candidate", "weight", "kept", "reason", "itm_score", "itc_score", "logprob")


def _told_as(kind: pa.DataType) -> pa.DataType:
    """The type in which a column goes out: `datasets` knows no maps, so that one is a list of keys and values."""
    if not pa.types.is_map(kind):
        return kind
    return pa.list_(pa.struct([pa.field("key", kind.key_type, nullable=False), pa.field("value", kind.item_type)]))


_ALL_OF_TEXTS = {
    field.name: _told_as(field.type) for field in (*PAIRS.schema, pa.field("weight", pa.float64()), *CAPTIONS.schema)
}

ABOUT_TEXTS = pa.struct(
    [pa.field(name, _ALL_OF_TEXTS[name]) for name in (*_FIRST, *sorted(_ALL_OF_TEXTS.keys() - {*_FIRST, "key"}))]
)
"""What is told of a text: the columns of `captions` and `pairs`, and `weight`, its share of training's epochs, 0..1."""


@dataclass(frozen=True)
class Texts:
    """The texts of a part that go out: `table` has the fields of ABOUT_TEXTS; `rows` their places, by key of image."""

    table: pa.Table
    rows: Mapping[str, Sequence[int]]
    best: Mapping[str, int]
    """The place of the text that stands for a picture where there is room for one."""


@dataclass(frozen=True)
class Batch:
    """Some pictures (`images`, columns of the table `images`) and their texts, those of one picture side by side.

    Their bytes stay where they were read, at the places `rows` of `stored`: to move those of a few hundred pictures
    takes a tenth of an export.
    """

    images: pa.Table
    texts: pa.Table
    ends: list[int]
    """Where the texts of each picture end in `texts`."""
    best: list[int]
    """The place in `texts` of the text that stands for each picture."""
    stored: pa.Array
    rows: list[int]

    @property
    def pictures(self) -> list[bytes]:
        """The encoded pictures."""
        return [self.stored[row].as_py() for row in self.rows]

    @property
    def picture_column(self) -> pa.Array:
        """The same as Arrow."""
        return self.stored if len(self.rows) == len(self.stored) else self.stored.take(self.rows)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def spans(self) -> Iterator[tuple[int, int]]:
        """Where the texts of each picture begin and end in `texts`."""
        return zip([0, *self.ends], self.ends, strict=False)


def read_known(path: Path, table: Table, names: Sequence[str]) -> pa.Table:
    """Columns of a Parquet file of `table`; those that an older file lacks are null."""
    with reading(path), open_parquet(path) as file:
        there = set(file.schema_arrow.names)
        return _all_columns(file.read(columns=[name for name in names if name in there]), table, names)


def _all_columns(rows: pa.Table, table: Table, names: Sequence[str]) -> pa.Table:
    for name in names:
        if name not in rows.schema.names:
            rows = rows.append_column(name, pa.nulls(len(rows), table.schema.field(name).type))
    return rows.select(names)


def read_texts(part: Part, source: Source, every: bool) -> Texts:
    """The texts of a part that go out: the kept ones, or `every` one that is of a row of the lists."""
    pairs = read_known(Path(part.pairs), PAIRS, PAIRS.schema.names)
    table = pairs if part.captions is None else _with_scores(pairs, part.captions)
    for name in ABOUT_TEXTS.names:
        if name not in table.schema.names and name != "weight":
            table = table.append_column(name, pa.nulls(len(table), _ALL_OF_TEXTS[name]))
    weights = pc.if_else(source.is_left_out(table), 0.0, _weights(table, source.is_weighted))
    table = table.append_column("weight", weights)
    table = table.filter(source.goes_out(table, every)).combine_chunks()
    rows = defaultdict[str, list[int]](list)
    for row, key in enumerate(table["key"].to_pylist()):
        rows[key].append(row)
    return Texts(table.select(ABOUT_TEXTS.names), rows, _best(table, rows, source.judged_by))


def _with_scores(pairs: pa.Table, path: str) -> pa.Table:
    """Pairs with the scores of their captions, which have the same rows in the same order."""
    known = ("key", "source", "candidate")
    captions = read_known(Path(path), CAPTIONS, CAPTIONS.schema.names)
    if len(captions) != len(pairs) or any(
        captions[name].combine_chunks() != pairs[name].combine_chunks() for name in known
    ):
        raise InputError(f"{path}: its texts are not those that the round's pairs judge; run the round again")
    for name in captions.schema.names:
        if name not in pairs.schema.names:
            pairs = pairs.append_column(name, captions[name].cast(_told_as(captions.schema.field(name).type)))
    return pairs


def _weights(texts: pa.Table, is_weighted: bool) -> pa.ChunkedArray:
    """Each text's share of the epochs of a training: as its rule score where it goes by that, else 1 where kept."""
    share = pa.scalar(1.0)
    if is_weighted:
        score = texts["rule_score"].cast(pa.float64())
        score = pc.if_else(pc.fill_null(pc.is_finite(score), False), score, 0.0)
        share = pc.max_element_wise(pc.min_element_wise(score, 1.0), 0.0)
    return pc.if_else(texts["kept"], share, 0.0)


def _best(texts: pa.Table, rows: Mapping[str, Sequence[int]], judged_by: str | None) -> dict[str, int]:
    """The kept text with the highest score by which the rule judged, the first of equals; by picture."""
    kept = texts["kept"].to_pylist()
    scores = texts[judged_by].to_pylist() if judged_by else [None] * len(kept)
    rank = [
        (one, float("-inf") if score is None or score != score else score)
        for one, score in zip(kept, scores, strict=True)
    ]
    return {key: mine[0] if len(mine) == 1 else max(mine, key=rank.__getitem__) for key, mine in rows.items()}


def batches(
    part: Part, texts: Texts, columns: Sequence[str], first: int = 0, last: int | None = None
) -> Iterator[Batch]:
    """The pictures of a part that have texts, in order, from the `first` to before the `last` of them.

    `columns` are those of `images` to be read. Raises InputError where a text has no picture.
    """
    stop, done = len(texts.rows) if last is None else last, 0
    names, path = list(dict.fromkeys(("key", *columns))), Path(part.images)
    with reading(path), open_parquet(path) as file:
        there = [name for name in names if name in file.schema_arrow.names]
        for found in file.iter_batches(ROWS_AT_ONCE, columns=there):
            keys = found["key"].to_pylist()
            at = [row for row, key in enumerate(keys) if key in texts.rows]
            mine = at[max(first - done, 0) : max(stop - done, 0)]
            done += len(at)
            if mine:
                yield _batch(found, mine, [name for name in names if name != PICTURE], texts)
            if done >= stop:
                break
    if done < stop:
        raise InputError(f"{part.pairs}: {stop - done} of its pictures are not in {part.images}; run the round again")


def _batch(found: pa.RecordBatch, rows: list[int], names: Sequence[str], texts: Texts) -> Batch:
    """The pictures of some rows, with the columns `names`."""
    stored = found[PICTURE] if PICTURE in found.schema.names else pa.nulls(len(found), pa.binary())
    told = pa.Table.from_batches([found.drop_columns([PICTURE]) if PICTURE in found.schema.names else found])
    images = _all_columns(told.take(rows), IMAGES, names)
    keys = images["key"].to_pylist()
    mine = [texts.rows[key] for key in keys]
    ends = list(accumulate(map(len, mine)))
    best = [start + places.index(texts.best[key]) for start, places, key in zip([0, *ends], mine, keys, strict=False)]
    return Batch(images, texts.table.take([row for places in mine for row in places]), ends, best, stored, rows)
