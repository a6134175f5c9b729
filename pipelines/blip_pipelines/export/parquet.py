"""Parquet shards: img2dataset's columns, or a picture as Hugging Face's `datasets` knows one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from blip_bootstrap.schemas.tables import IMAGES
from blip_pipelines.export.joined import ABOUT_PICTURES, ABOUT_TEXTS, PICTURE, Batch
from blip_pipelines.export.place import Hashed, Place

ROWS_PER_GROUP = 100
"""As Hugging Face advises for pictures, so that a viewer reads a few at a time."""

_ABOUT = tuple(IMAGES.schema.field(name) for name in ABOUT_PICTURES)

CAPTIONS = pa.list_(ABOUT_TEXTS)

PLAIN = pa.schema([
    *(pa.field(one.name, one.type) for one in _ABOUT), pa.field("caption", pa.string()),
    pa.field("status", pa.string()), pa.field("captions", CAPTIONS), pa.field(PICTURE, pa.binary()),
])  # fmt: skip
"""img2dataset's columns with ours; `caption` is the text that stands for the picture, `captions` has all."""

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

HUB = pa.schema([
    pa.field("image", IMAGE), pa.field("text", pa.string()),
    *(pa.field(one.name, one.type) for one in _ABOUT), pa.field("captions", CAPTIONS),
])  # fmt: skip


def features() -> dict[str, Any]:
    """The columns as `datasets` describes them in a file's metadata."""
    return {one.name: _feature(one.type) for one in HUB} | {"image": {"_type": "Image"}}


def _feature(kind: pa.DataType) -> Any:
    if pa.types.is_struct(kind):
        return {one.name: _feature(one.type) for one in kind}
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    return {"dtype": {"float": "float32", "double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}


def write_plain(place: Place, name: str, batches: Iterator[Batch]) -> list[tuple[str, int, str]]:
    """Write a shard with img2dataset's columns; its name, bytes and sha256."""
    return _write(place, f"{name}.parquet", PLAIN, map(_plain, batches))


def write_hub(place: Place, name: str, batches: Iterator[Batch]) -> list[tuple[str, int, str]]:
    """Write a shard of a Hugging Face folder; its name, bytes and sha256."""
    schema = HUB.with_metadata({"huggingface": json.dumps({"info": {"features": features()}})})
    return _write(place, f"data/train-{name}.parquet", schema, map(_hub, batches))


def _write(place: Place, name: str, schema: pa.Schema, tables: Iterator[pa.Table]) -> list[tuple[str, int, str]]:
    settings = {"compression": "zstd", "write_page_index": True, "write_page_checksum": True}
    with (
        place.staged(name) as staged,
        Hashed(staged) as out,
        pq.ParquetWriter(pa.PythonFile(out, mode="w"), schema, **settings) as writer,
    ):
        for table in tables:
            writer.write_table(table.select(schema.names).cast(schema), row_group_size=ROWS_PER_GROUP)
    return [(name, out.size_bytes, out.sha256)]


def _plain(batch: Batch) -> pa.Table:
    told = {
        "caption": _best(batch),
        "status": pa.repeat("success", len(batch)),
        "captions": _captions(batch),
        PICTURE: batch.picture_column,
    }
    return _with(batch.images, told)


def _hub(batch: Batch) -> pa.Table:
    paths = pa.array([f"{key}.jpg" for key in batch.images["key"].to_pylist()])
    image = pa.StructArray.from_arrays([batch.picture_column, paths], fields=list(IMAGE))
    return _with(batch.images, {"image": image, "text": _best(batch), "captions": _captions(batch)})


def _with(table: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def _best(batch: Batch) -> pa.Array:
    return batch.texts["caption"].take(batch.best).combine_chunks()


def _captions(batch: Batch) -> pa.Array:
    texts = batch.texts.combine_chunks()
    columns = [texts[name].combine_chunks() for name in ABOUT_TEXTS.names]
    rows = pa.StructArray.from_arrays(columns, fields=list(ABOUT_TEXTS))
    return pa.ListArray.from_arrays(pa.array([0, *batch.ends], pa.int32()), rows)
