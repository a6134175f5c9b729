"""The tables that live only in a staging folder: URL shards between reading the lists and fetching."""

from __future__ import annotations

from blip_bootstrap.tables import IMAGES, Table

_NAMES = ("key", "uid", "dataset", "url", "caption", "cut_from_chars", "status", "error_class", "error_message")

SHARD = Table(
    "shard",
    "one row of the URL lists before it is fetched; a status is there where it was rejected",
    tuple(column for column in IMAGES.columns if column.name in _NAMES),
)
