"""What is told of a picture and its texts as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from blip_pipelines.export.joined import ABOUT_PICTURES, ABOUT_TEXTS, Batch

Document = dict[str, Any]

TOLD_ALWAYS = frozenset((
    "key", "uid", "url", "dataset", "sha256", "width", "height", "original_width", "original_height",
    "caption", "source", "candidate", "weight", "kept", "reason", "itm_score", "itc_score", "logprob",
))  # fmt: skip
"""Fields that a document has where they are null, too."""

encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=lambda time: time.isoformat()
).encode
"""JSON in one line; times (UTC) as ISO 8601."""


def documents(batch: Batch) -> Iterator[Document]:
    """A document for each picture: what is known of it, its best text as `caption`, and all `captions`."""
    texts = rows_of(batch.texts, ABOUT_TEXTS.names)
    pictures = rows_of(batch.images, [name for name in ABOUT_PICTURES if name in batch.images.schema.names])
    for picture, best, (start, end) in zip(pictures, batch.best, batch.spans, strict=True):
        picture["caption"], picture["captions"] = texts[best]["caption"], texts[start:end]
        yield picture


def rows_of(table: pa.Table, names: Sequence[str]) -> list[Document]:
    """Rows as they stand in JSON, without fields that are null, but for those of TOLD_ALWAYS."""
    told = [name for name in names if name in TOLD_ALWAYS or table[name].null_count < len(table)]
    columns = [values_of(table[name]) for name in told]
    rows = [dict(zip(told, row, strict=True)) for row in zip(*columns, strict=True)]
    if optional := [name for name in told if name not in TOLD_ALWAYS and table[name].null_count]:
        for row in rows:
            for name in optional:
                if row[name] is None:
                    del row[name]
    return rows


def values_of(column: pa.ChunkedArray) -> list[Any]:
    """Values as JSON has them; a number of single precision by its fewest digits, NaN as null."""
    values = column.combine_chunks()
    if pa.types.is_float32(values.type):
        return list(_shortest(values).to_pylist())
    if pa.types.is_list(values.type) and pa.types.is_float32(values.type.value_type):
        return [
            None if one is None else _shortest(pa.array(one, pa.float32())).to_pylist() for one in values.to_pylist()
        ]
    return list(values.to_pylist())


def _shortest(values: pa.Array) -> pa.Array:
    """0.73 for the single-precision number nearest to it, which is 0.7300000190734863; it is that when read again."""
    good = pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float32()))
    short = good.cast(pa.string()).cast(pa.float64())
    same = pc.equal(short.cast(pa.float32(), safe=False), good)  # rounded twice: never seen to differ
    return pc.if_else(pc.fill_null(same, True), short, good.cast(pa.float64()))
