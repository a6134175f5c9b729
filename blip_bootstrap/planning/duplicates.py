"""What finding pictures that are there several times costs, measured on the sample."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa

from blip_bootstrap.config import Config
from blip_bootstrap.machine import num_cores
from blip_bootstrap.planning.cost import Cost
from blip_bootstrap.planning.sample import Sample
from blip_bootstrap.schemas.keys import keys_of, part_name
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.storage.parquet import write_parquet
from blip_pipelines.cluster.resources import peak_bytes
from blip_pipelines.duplicates.groups import group_pictures
from blip_pipelines.duplicates.hashes import hash_pictures

GROUPED_ROWS = 20_000
"""Rows of the sample, repeated without their pictures, on which grouping is timed."""


def measure_duplicates(config: Config, sample: Sample, scratch: Path) -> list[Cost]:
    """The costs of hashing the pictures, where near duplicates are looked for, and of grouping them; none where not."""
    if not config.duplicates.wanted:
        return []
    return [
        *([_hashing(config, sample, scratch)] if config.duplicates.near else []),
        _grouping(config, sample, scratch),
    ]


def _hashing(config: Config, sample: Sample, scratch: Path) -> Cost:
    images, out = scratch / "hashed_images", scratch / "hashes"
    write_parquet(images / part_name(0), sample.rows, IMAGES)
    out.mkdir()
    here = config.ray.model_copy(update={"address": "none"})
    started = time.perf_counter()
    hash_pictures(out, images, ray=here)
    seconds = time.perf_counter() - started
    size = (out / part_name(0)).stat().st_size
    return Cost(
        "hash pictures", 1.0, size / len(sample.rows), num_cores() * seconds / len(sample.rows), "CPU decode",
        num_workers=num_cores(),
        unit=config.download.rows_per_shard,
        share=sample.success_share,
        worker_bytes=peak_bytes(),
    )  # fmt: skip


def _grouping(config: Config, sample: Sample, scratch: Path) -> Cost:
    """The cost of exact groups; comparing hashes grows with their number times how full a band is."""
    images, out = scratch / "grouped_images", scratch / "groups"
    light = sample.rows.set_column(IMAGES.schema.get_field_index("jpg"), "jpg", pa.nulls(len(sample.rows), pa.binary()))
    rows = pa.concat_tables([light] * -(-GROUPED_ROWS // len(light)))
    rows = rows.set_column(0, "key", pa.array(keys_of(0, range(len(rows))), pa.string()))
    write_parquet(images / part_name(0), rows, IMAGES)
    out.mkdir()
    exact = config.duplicates.model_copy(update={"near": False})
    started = time.perf_counter()
    group_pictures(out, images, config=exact, ray=config.ray)
    seconds, size = time.perf_counter() - started, (out / part_name(0)).stat().st_size
    return Cost(
        "group pictures", 1.0, size / len(rows), seconds / len(rows), "CPU",
        share=sample.success_share,
        worker_bytes=peak_bytes(),
        devices_per_worker=num_cores(),
        scales=False,
    )  # fmt: skip
