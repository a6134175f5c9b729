"""The row groups that a worker holds: those of its lanes' windows, the next of which are read while these are used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

from blip_training.feed.counts import Counts
from blip_training.feed.row_groups import RowGroup, read_footer, read_row_group
from blip_training.feed.shards import Shard

READERS = 4
"""Row groups that are read at a time; each is in memory whole until the pictures without texts are dropped."""

FOOTERS = 128
"""Footers of Parquet files that are kept, some 60 kB each of 20 row groups of `images`; they matter in small sets."""


class HeldGroups:
    """Row groups by their numbers in `counts`, each read once while any lane asks for it."""

    def __init__(self, shards: Sequence[Shard], counts: Counts) -> None:
        self.shards, self.counts = shards, counts
        self._asked: dict[int, frozenset[int]] = {}
        self._reads: dict[int, Future[RowGroup]] = {}
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="read")
        self._footer = lru_cache(FOOTERS)(read_footer)

    @property
    def num_held(self) -> int:
        """How many row groups are held, or are being read."""
        return len(self._reads)

    def ask(self, lane: int, now: Iterable[int], later: Iterable[int] = ()) -> None:
        """Say what a lane needs now and what later: the rest that it had is dropped, if no other lane needs it."""
        now, later = list(now), list(later)
        dropped = self._asked.get(lane, frozenset()).difference(now, later)
        self._asked[lane] = frozenset((*now, *later))
        for group in dropped.difference(*self._asked.values()):
            self._reads.pop(group).cancel()
        for group in (*now, *later):
            if group not in self._reads:
                self._reads[group] = self._pool.submit(self._read, group)

    def get(self, group: int) -> RowGroup:
        """A row group that was asked for; waits until it is read."""
        return self._reads[group].result()

    def _read(self, group: int) -> RowGroup:
        counts = self.counts
        shard = self.shards[counts.shard[group]]
        texts = int(counts.first_texts[group]), int(counts.last_texts[group])
        return read_row_group(shard, int(counts.number[group]), texts, self._footer)
