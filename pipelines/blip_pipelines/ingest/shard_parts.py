"""The part of a shard: its rows as they are fetched, those that are copied, and what is counted of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.schemas.closed_lists import WITHDRAWN
from blip_bootstrap.schemas.tables import IMAGES, SHARD
from blip_bootstrap.storage.parquet import read_parquet, rows_to_table, write_parquet
from blip_bootstrap.storage.withdrawn import withdraw, withdrawn_of, withdrawn_row
from blip_pipelines.cluster.items import RETRIES
from blip_pipelines.cluster.tally import Counts
from blip_pipelines.fetch.courtesy import Courtesy
from blip_pipelines.ingest.copies import Row, as_fetched, fill, read_waiting, write_waiting
from blip_pipelines.ingest.respect import count_hosts
from blip_pipelines.ingest.stats import write_stats

TALLY_EVERY_ROWS = 25

TOO_LONG = "texts_too_long"
"""What texts are counted as that were cut."""


@dataclass(frozen=True)
class Shard:
    """One item of the download: the path of a file of URLs (`rows`), and of the file of their images (`part`).

    `is_last`: every other part is there, or waits for copies of pictures of others, too.
    """

    rows: str
    part: str
    is_last: bool = False


def write_part(
    shard: Shard,
    fetch: Callable[[list[Row]], Iterator[tuple[Row, int]]],
    tally: Counts,
    courtesy: Courtesy | None = None,
) -> None:
    """Write the part of a shard: `fetch` gives its rows, each with the number of times that work was done again.

    A part of which the picture of another part, which is in work, is to be copied waits, with what was fetched of it.
    """
    part, started = Path(shard.part), time.time()
    rows, seen = read_waiting(part), Counter[str]()
    if rows is None:
        rows, seen = _take(fetch(read_parquet(Path(shard.rows)).to_pylist()), str(part), tally)
    left = fill(rows, part)
    if left and not shard.is_last:
        write_waiting(part, rows)
        return
    if left:
        alone, more = _take(fetch(as_fetched([rows[place] for place in left])), f"{part}.alone", tally)
        seen[RETRIES] += more[RETRIES]
        for place, row in zip(left, alone, strict=True):
            rows[place] = row
    rows = _without_withdrawn(shard, rows)
    seen = _counted(rows) + Counter({RETRIES: seen[RETRIES]})
    table = rows_to_table(rows, IMAGES)
    write_stats(part, seen, started, time.time())  # first: a part that is there is done
    counts = {name: number for name, number in seen.items() if name != RETRIES}
    counts[TOO_LONG] = len(rows) - table["cut_from_chars"].null_count
    write_parquet(part, table, IMAGES, counts=counts)
    tally.put(f"{part}.alone", {})
    tally.put(str(part), dict(seen))
    if courtesy:
        count_hosts(rows, courtesy)


def _without_withdrawn(shard: Shard, rows: list[Row]) -> list[Row]:
    """The rows, of which those that were withdrawn have their key alone; so have they in the shard, from then on."""
    withdrawn = withdrawn_of(Path(shard.part))
    gone = {row["key"] for row in rows if withdrawn.has(row)}
    if any(row["key"] in gone and row["status"] != WITHDRAWN for row in rows):  # known by their bytes
        listed = read_parquet(Path(shard.rows))
        mask = pc.is_in(listed["key"], pa.array(sorted(gone), pa.string()))
        write_parquet(Path(shard.rows), withdraw(listed, mask), SHARD, counts={})
    return [withdrawn_row(row) if row["key"] in gone else row for row in rows]


def _take(found: Iterable[tuple[Row, int]], unit: str, tally: Counts) -> tuple[list[Row], Counter[str]]:
    """The rows as they come, and their counts, which the tally has meanwhile."""
    rows: list[Row] = []
    seen: Counter[str] = Counter()
    for row, retries in found:
        rows.append(row)
        seen.update(_names(row))
        seen[RETRIES] = retries
        if len(rows) % TALLY_EVERY_ROWS == 0:
            tally.put(unit, dict(seen))
    return rows, seen


def _counted(rows: Iterable[Row]) -> Counter[str]:
    return Counter(name for row in rows for name in _names(row))


def _names(row: Row) -> list[str]:
    """The counters that a row moves; one that is to be copied has no status yet."""
    return ["images", *(row[name] for name in ("status", "error_class") if row[name])]
