"""Pictures that are not trained on since another picture of the run is in their place, by files of `picture_groups`."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.storage.parquet import read_parquet


def duplicates_in(groups: Path | None, part: str) -> pa.Array:
    """The keys of such pictures in the part with this name; none where there are no groups."""
    if groups is None:
        return pa.array([], pa.string())
    rows = read_parquet(groups / part, ["key", "duplicate_of"])
    return rows["key"].filter(pc.is_valid(rows["duplicate_of"])).combine_chunks()
