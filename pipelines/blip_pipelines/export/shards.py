"""Which pictures go into which shard: those of one part by default, else so many in each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from blip_bootstrap.schemas.tables import PAIRS
from blip_pipelines.export.joined import read_known
from blip_pipelines.export.source import Part, Source


@dataclass(frozen=True)
class Slice:
    """Pictures of a part that have texts, from the `first` to before the `last` of them; all where that is None."""

    part: Part
    first: int = 0
    last: int | None = None


@dataclass(frozen=True)
class Shard:
    """One item of an export: the name of its files, and the pictures in it."""

    name: str
    slices: tuple[Slice, ...]


def plan_shards(source: Source, every: bool, rows_per_shard: int | None) -> Iterator[Shard]:
    """The shards of an export, in order.

    With `rows_per_shard` the pairs of all parts are looked through first, for how many pictures each has: some 10 ms
    a part.
    """
    if rows_per_shard is None:
        for part in source.parts():
            yield Shard(part.name, (Slice(part),))
        return
    number, held, room = 0, list[Slice](), rows_per_shard
    for part in source.parts():
        first, num = 0, _num_pictures(source, part, every)
        while first < num:
            last = min(num, first + room)
            held.append(Slice(part, first, last))
            room, first = room - (last - first), last
            if room == 0:
                yield Shard(f"{number:05d}", tuple(held))
                number, held, room = number + 1, [], rows_per_shard
    if held:
        yield Shard(f"{number:05d}", tuple(held))


def _num_pictures(source: Source, part: Part, every: bool) -> int:
    pairs = read_known(Path(part.pairs), PAIRS, ["key", "kept", "reason"])
    return int(pc.count_distinct(pairs.filter(source.goes_out(pairs, every))["key"]).as_py())
