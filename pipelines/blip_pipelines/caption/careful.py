"""Blocks of pictures that workers have died of: what kills a worker becomes a row with its reason, the rest goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip_bootstrap.config import CaptionConfig
from blip_bootstrap.schemas.tables import CAPTIONS
from blip_bootstrap.storage.parquet import write_parquet
from blip_pipelines.caption.again import work_of
from blip_pipelines.caption.answers import ImageRow, ImageRows, KeptAnswers, KeptScores, OfPicture, Told
from blip_pipelines.caption.blocks import Block, merge_if_whole, num_threads
from blip_pipelines.cluster.items import RETRIES
from blip_pipelines.cluster.tally import Counts
from blip_pipelines.failures import tries
from blip_pipelines.failures.aside import Aside, Died
from blip_pipelines.failures.limits import Limits
from blip_pipelines.scoring.references import Reference
from blip_pipelines.scoring.rows import CaptionRow, fold, to_table

if TYPE_CHECKING:
    from blip_pipelines.caption.worker import CaptionWorker

BATCH_SIZE = 64
"""Where none is set; a worker's own on a CPU, so that captions and scores are the same to the last digit there."""

SPARING_SIZE = 256
"""The same where texts are spared."""

METADATA = None
"""Asks the child for what is the same for every row of a file."""


class CarefulBlocks:
    """Takes blocks as CaptionBlocks does, with the models in a child process that a picture may kill.

    A picture of which the child dies when alone keeps its web text, without scores, flagged with what it died of.
    """

    def __init__(
        self,
        captioner: str | None,
        filter: str,
        config: CaptionConfig,
        num_lanes: int = 1,
        references: Sequence[Reference] = (),
        limits: Limits | None = None,
        *,
        tally: Counts,
    ) -> None:
        arguments = captioner, filter, config, num_threads(config), num_lanes, references
        self._aside = Aside("caption", partial(make_captions, arguments), limits or Limits())
        self._batch_size = config.batch_size or (SPARING_SIZE if config.spares else BATCH_SIZE)
        self._tally = tally

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Caption those of the blocks that are not made; yields every block once it is."""
        for block in blocks:
            if not block.made:
                self._caption(block)
            merge_if_whole(block)
            yield block
        self._aside.close()  # its models' memory is for others

    def _caption(self, block: Block) -> None:
        images = block.images().to_pylist()
        work = work_of(images, Path(block.output), block.again)
        kept = work.images.kept
        todo = [
            (row, kept.of(row["key"]), kept.scores.of(row["key"])) for row in work.images if row["status"] == "success"
        ]
        rows: list[CaptionRow] = []
        counts = Counter(name for row in work.rows_done for name in row.counters)
        before = self._aside.num_deaths
        for batch, made in self._aside.each(todo, self._batch_size):
            done, new, scores = ([flagged(batch[0][0], made)], {}, {}) if isinstance(made, Died) else made
            kept.add(new)
            kept.scores.add(scores)
            rows += done
            counts.update(name for row in done for name in row.counters)
            counts[RETRIES] = self._aside.num_deaths - before
            self._tally.put(block.output, dict(counts))
        write_parquet(Path(block.output), to_table(work.in_order(rows)), CAPTIONS, self._aside(METADATA))
        kept.drop()
        tries.end(Path(block.output))


def flagged(image: dict[str, Any], died: Died) -> CaptionRow:
    """The row of a picture that kills whoever captions it: its web text, neither counted nor scored."""
    return CaptionRow(image["key"], "web", 0, fold(image["caption"] or ""), num_tokens=0, flags=[died.reason])


def make_captions(arguments: tuple[Any, ...]) -> Callable[[Any], Any]:
    """In the child: load the models; the function captions rows of images, or with METADATA tells its metadata."""
    from blip_pipelines.caption.worker import CaptionWorker  # torch, where captions are made

    return partial(_captions, CaptionWorker(*arguments))


def _captions(worker: CaptionWorker, images: list[tuple[ImageRow, OfPicture, Mapping[str, Told]]] | None) -> Any:
    """The rows of images, with what is known of each that servers answered, and what is new of that."""
    if images is METADATA:
        return worker.metadata
    rows = ImageRows(row for row, _, _ in images)
    scores = KeptScores(known={row["key"]: told for row, _, told in images})
    rows.kept = KeptAnswers(known={row["key"]: known for row, known, _ in images}, scores=scores)
    return [row for made in worker.in_batches(rows) for row in made], rows.kept.new, scores.new
