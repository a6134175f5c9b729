"""The pictures that training leaves out, because another set has them too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from blip_bootstrap.storage.parquet import parquet_files, read_parquet


@dataclass(frozen=True)
class LeftOut:
    """The keys of pictures of the web and the human set that are not trained on."""

    web: frozenset[str] = frozenset()
    human: frozenset[str] = frozenset()


def read_left_out(folder: Path | None) -> LeftOut:
    """The pictures that the table `same_pictures` in `folder` leaves out; none if `folder` is None."""
    found: dict[str, set[str]] = {"web": set(), "human": set()}
    for file in parquet_files(folder) if folder else []:
        rows = read_parquet(file, ["set", "key", "left_out"]).filter(pc.field("left_out"))
        for name, key in zip(rows["set"].to_pylist(), rows["key"].to_pylist(), strict=True):
            found[name].add(key)
    return LeftOut(frozenset(found["web"]), frozenset(found["human"]))
