"""Captions that are there, of which judges are asked that have not scored them; no other model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.config import CaptionConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.closed_lists import DEATHS
from blip_bootstrap.schemas.schema import Table
from blip_bootstrap.schemas.tables import CAPTIONS
from blip_bootstrap.storage.parquet import read_parquet, write_parquet
from blip_pipelines.caption.ahead import one_ahead
from blip_pipelines.caption.answers import KeptScores, Told
from blip_pipelines.caption.blocks import Block, counts_of, merge_if_whole, with_all_columns
from blip_pipelines.caption.judged import Asked, Judges
from blip_pipelines.caption.worker import BATCH_SIZE, DECODE_THREADS, SPARING
from blip_pipelines.cluster.items import RETRIES
from blip_pipelines.cluster.tally import Counts
from blip_pipelines.failures import tries
from blip_pipelines.failures.aside import Aside, Died
from blip_pipelines.failures.limits import Limits, Watch
from blip_pipelines.scoring.rows import CaptionRow
from blip_training.data.decode import decode_image
from blip_training.runtime.workers import resolve_device

OF_TEXTS = ["key", "source", "candidate", "caption", "num_tokens", "flags", "scores", "scores_lacking"]
"""What is read of captions for judging them; all other columns go on as they are."""


@dataclass
class PictureTexts:
    """A picture with the rows of its texts that are to be scored."""

    key: str
    jpg: bytes
    rows: list[CaptionRow]


Piece = tuple[PictureTexts, Sequence[str], Mapping[str, Told]]
"""A picture, the names of the judges that are asked about it, and what servers are known to have said."""


class BeforeJudged:
    """Texts as other judges left them; `judges` are those of today, of which some may be the same.

    `file` is one of captions, or of `filter_check` (`of`); of it the rows of the pictures with these keys, or all.
    """

    def __init__(self, file: Path, judges: Judges, keys: pa.ChunkedArray | None = None, of: Table = CAPTIONS) -> None:
        table = read_parquet(file)
        found = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items() if k != b"table"}
        before = json.loads(found.pop("judges", "[]"))
        same = [one for one in judges.all if one.told in before]
        self.asked = [one for one in judges.all if one not in same]
        self.metadata = found | judges.metadata()
        mine = table if keys is None else table.filter(pc.is_in(table["key"], keys.unique()))
        self._table = with_all_columns(mine, of)
        self._names = [name for one in judges.all for name in one.names.values()]
        self.rows = [self._row(row, _names_of(same)) for row in self._table.select(OF_TEXTS).to_pylist()]

    @staticmethod
    def _row(row: Mapping[str, Any], kept: Sequence[str]) -> CaptionRow:
        """With the scores alone that judges gave who are the same."""
        found = CaptionRow(**row)
        found.scores = [one for one in found.scores or [] if one[0] in kept] or None
        found.scores_lacking = [one for one in found.scores_lacking or [] if one[0] in kept] or None
        return found

    @property
    def texts(self) -> dict[str, list[CaptionRow]]:
        """The rows that are to be scored, by picture; none of one that a worker has died of."""
        died = {row.key for row in self.rows if set(row.flags) & set(DEATHS)}
        found: dict[str, list[CaptionRow]] = {}
        for row in self.rows:
            if row.is_read and row.key not in died:
                found.setdefault(row.key, []).append(row)
        return found

    @property
    def judged(self) -> pa.Table:
        """The captions with the scores that the rows have by now, in the order of the judges."""
        table = self._table
        for name in ("scores", "scores_lacking"):
            column = pa.array(
                [self._in_order(getattr(row, name)) for row in self.rows], CAPTIONS.schema.field(name).type
            )
            table = table.set_column(table.schema.get_field_index(name), name, column)
        return table

    def _in_order(self, told: list[tuple[str, Any]] | None) -> list[tuple[str, Any]] | None:
        return sorted(told, key=lambda one: self._names.index(one[0])) if told else None


class RejudgedBlocks:
    """Takes blocks as CaptionBlocks does, whose captions are there but for scores of judges, which it asks.

    Pictures come in batches as they do where they are captioned, so that a judge whose scores vary with that gives the
    same ones. One that cannot be decoded, or that a worker has died of, is not judged, as there.
    With `carefully` the judges are in a child process that a picture may kill; where it dies of one that is alone, the
    scores of that one's texts lack (`judge_failed`).
    """

    def __init__(
        self,
        config: CaptionConfig,
        limits: Limits | None = None,
        noted: bool = False,
        carefully: bool = False,
        *,
        tally: Counts,
    ) -> None:
        self._config, self._tally, self._noted = config, tally, noted
        self._device = resolve_device(config.device).type
        self._batch_size = batch_size_of(config, self._device)
        self._watch = Watch("judge", limits or Limits(), waits=lambda: self._judges.are_waiting)
        self._aside = Aside("judge", partial(make_scorer, config), limits or Limits()) if carefully else None

    @cached_property
    def _judges(self) -> Judges:
        """Each is loaded when it is first asked."""
        return Judges(self._config, self._device)

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Score those of the blocks that are not made; yields every block once it is."""
        for block in blocks:
            if not block.made:
                self._make(block)
            merge_if_whole(block)
            yield block
        if self._aside:
            self._aside.close()  # its models' memory is for others

    def _make(self, block: Block) -> None:
        output = Path(block.output)
        if self._noted:
            tries.begin(output)
        try:
            before = BeforeJudged(Path(str(block.scored)), self._judges, block.images(["key"])["key"])
            kept = KeptScores(output)
            if before.asked:
                score = self._score_carefully if self._aside else self._score
                score(block, before.asked, _pictures(block, before.texts), kept)
            write_parquet(output, judged := before.judged, CAPTIONS, before.metadata)
            self._put(block, counts_of(judged))
            kept.drop()
        finally:
            if self._noted or self._aside:
                tries.end(output)

    def _score(self, block: Block, asked: list[Asked], pictures: list[PictureTexts], kept: KeptScores) -> None:
        """Have the pictures' texts scored batch by batch; the next one is decoded meanwhile."""
        size, done = self._batch_size, 0
        with ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode") as pool, self._watch.watching():
            batches = (pictures[at : at + size] for at in range(0, len(pictures), size))
            for begun in one_ahead([pool.submit(decoded, one) for one in batch] for batch in batches):
                with self._watch.batch(len(begun)):
                    self._judges.ask(asked, [text for one in begun for text in one.result()], kept)
                done += len(begun)
                self._put(block, {"images": done})

    def _score_carefully(
        self, block: Block, asked: list[Asked], pictures: list[PictureTexts], kept: KeptScores
    ) -> None:
        assert self._aside
        names, before, done = [one.config.name for one in asked], self._aside.num_deaths, 0
        pieces: list[Piece] = [(one, names, kept.of(one.key)) for one in pictures]
        for batch, made in self._aside.each(pieces, self._batch_size):
            rows = [row for one, _, _ in batch for row in one.rows]
            if isinstance(made, Died):
                for row in rows:
                    lacking = [(name, "judge_failed") for name in _names_of(asked)]
                    row.scores_lacking = [*(row.scores_lacking or []), *lacking]
            else:
                kept.add(made[1])
                for row, scored in zip(rows, made[0], strict=True):
                    row.scores, row.scores_lacking = scored
            done += len(batch)
            self._put(block, {"images": done, RETRIES: self._aside.num_deaths - before})

    def _put(self, block: Block, counts: dict[str, int]) -> None:
        self._tally.put(block.output, counts)


def _names_of(judges: Iterable[Asked]) -> list[str]:
    return [name for one in judges for name in one.names.values()]


def _pictures(block: Block, texts: Mapping[str, list[CaptionRow]]) -> list[PictureTexts]:
    """The block's pictures, in their order."""
    rows = block.images(["key", "status", "jpg"]).to_pylist()
    fetched = [row for row in rows if row["status"] == "success"]
    return [PictureTexts(row["key"], row["jpg"] or b"", texts.get(row["key"], [])) for row in fetched]


def batch_size_of(config: CaptionConfig, device: str) -> int:
    """Pictures that come together where they are captioned."""
    return config.batch_size or (SPARING if config.spares else BATCH_SIZE)[device]


def decoded(one: PictureTexts) -> list[tuple[CaptionRow, Any]]:
    """The rows of a picture, each with it; none where it cannot be decoded."""
    try:
        image = decode_image(one.jpg, one.key) if one.rows else None
    except InputError:
        return []
    return [(row, image) for row in one.rows]


def rejudged(file: Path, pictures: Mapping[str, bytes], config: CaptionConfig, of: Table) -> BeforeJudged:
    """The texts of a file of a table with the scores of today's judges; `pictures` are the bytes of all of them."""
    device = resolve_device(config.device).type
    judges = Judges(config, device)
    before, size = BeforeJudged(file, judges, of=of), batch_size_of(config, device)
    texts = before.texts
    some = [PictureTexts(key, jpg, texts.get(key, [])) for key, jpg in pictures.items()]
    for at in range(0, len(some), size) if before.asked else ():
        judges.ask(before.asked, [text for one in some[at : at + size] for text in decoded(one)], None)
    return before


def make_scorer(config: CaptionConfig) -> Callable[[list[Piece]], Any]:
    """In the child: the judges; the function scores pictures' texts."""
    return partial(_scored, Judges(config, resolve_device(config.device).type))


def _scored(judges: Judges, pieces: list[Piece]) -> Any:
    """Of each text its scores and why others lack, and what is new of servers' scores."""
    names = pieces[0][1]
    kept = KeptScores(known={one.key: known for one, _, known in pieces})
    texts = [text for one, _, _ in pieces for text in decoded(one)]
    judges.ask([one for one in judges.all if one.config.name in names], texts, kept)
    rows = [row for one, _, _ in pieces for row in one.rows]
    return [(row.scores, row.scores_lacking) for row in rows], kept.new
