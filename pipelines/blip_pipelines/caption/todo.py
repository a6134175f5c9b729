"""The blocks of pictures that are still to be captioned, without holding one of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence, Set
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

from blip_bootstrap.storage.manifest import KnownParts
from blip_bootstrap.stores.store import sizes_there
from blip_pipelines.caption.again import Again
from blip_pipelines.caption.blocks import BLOCKS, Block, firsts_of


class Todo(Sequence[Block]):
    """The blocks of files of images that are not made; each is made when it is asked for, none is held."""

    def __init__(
        self, parts: Mapping[Path, int], out: Path, made: Set[str], again: Again | None = None,
        scored: Mapping[str, Path] | None = None,
    ) -> None:  # fmt: skip
        self._again, self._scored = again, scored or {}
        self.names = {part.name: part for part in parts}
        self.made, self._out, self._rows = made, out.absolute(), dict(parts)
        begun = {name.rpartition("-")[0] for name in made}
        self._firsts = {
            part: [*self._left(part)] if part.stem in begun else firsts_of(rows) for part, rows in parts.items()
        }
        self._ends = [*accumulate(map(len, self._firsts.values()))]
        self._parts = [*parts]

    @classmethod
    def of(
        cls, parts: Sequence[Path], out: Path, known: KnownParts, again: Again | None = None,
        scored: Mapping[str, Path] | None = None,
    ) -> Todo:  # fmt: skip
        """Those of `parts`, by the blocks that lie in `out` already; `again`: captions of before.

        `scored` has files of captions that lack scores of judges alone, by the names of these parts.
        """
        folder = out / BLOCKS
        made = {one.name for one in folder.glob("*.parquet")} | sizes_there(folder).keys()
        return cls(
            {part: known.rows(part) for part in parts}, out, {one for one in made if one[0] != "."}, again, scored
        )

    def _left(self, part: Path) -> Sequence[int]:
        names = {first: Path(self._block(part, first).output).name for first in firsts_of(self._rows[part])}
        return [first for first, name in names.items() if name not in self.made]

    def _block(self, part: Path, first: int) -> Block:
        return Block.of(part, self._out, first, self._rows[part], self._again, self._scored.get(part.name))

    def first_of(self, name: str) -> Block:
        """The first block of the file of images with this name."""
        return self._block(self.names[name], 0)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, at: int) -> Block: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Block]: ...

    def __getitem__(self, at: int | slice) -> Block | Sequence[Block]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(at)
        place = bisect_right(self._ends, at)
        part = self._parts[place]
        return self._block(part, self._firsts[part][at - (self._ends[place - 1] if place else 0)])


class Tasks(Sequence[Sequence[Block]]):
    """Blocks that an actor takes together, `size` of them; made when they are asked for."""

    def __init__(self, blocks: Sequence[Block], size: int) -> None:
        self._blocks, self._size = blocks, size

    def __len__(self) -> int:
        return -(-len(self._blocks) // self._size)

    @overload
    def __getitem__(self, at: int) -> Sequence[Block]: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Sequence[Block]]: ...

    def __getitem__(self, at: int | slice) -> Sequence[Any]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(at)
        return self._blocks[at * self._size : (at + 1) * self._size]
