"""What one captioning worker does: images as Arrow in, their web text and synthetic captions with scores out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from blip_bootstrap.config import CaptionConfig
from blip_bootstrap.errors import RunFailed
from blip_pipelines.caption.ahead import one_ahead
from blip_pipelines.caption.answers import ImageRow, ImageRows, KeptAnswers
from blip_pipelines.caption.judged import Judges, Made
from blip_pipelines.caption.metadata import metadata_of
from blip_pipelines.caption.sparing import Sparing, Turn
from blip_pipelines.caption.writers import Writers
from blip_pipelines.scoring.agreement import set_agreement
from blip_pipelines.scoring.compare import Compared, set_lift
from blip_pipelines.scoring.decoders import DecodeProcesses
from blip_pipelines.scoring.lanes import Lanes
from blip_pipelines.scoring.likelihoods import set_captioner_itc, set_logprob
from blip_pipelines.scoring.models import Model, Models
from blip_pipelines.scoring.picture import Picture
from blip_pipelines.scoring.references import Reference, first_readable
from blip_pipelines.scoring.rows import IMAGE_COLUMNS, TOO_LONG, CaptionRow, Texts, fold, to_table
from blip_pipelines.scoring.scores import Looks, combine_scores, score_again, score_with, to_read
from blip_training.decoding.generate import generate
from blip_training.decoding.sampler import resolve_sampler
from blip_training.model.med import EMBED
from blip_training.runtime.allocator import keep_freed_memory
from blip_training.runtime.workers import resolve_device

DECODE_THREADS = 2
"""Threads that decode while the models work."""

DECODE_PROCESSES = 8
"""The most processes that decode for a GPU, in place of these; they are no fewer than these."""

BATCH_SIZE = {"cpu": 64, "cuda": 256}
"""Where none is set. An H200 captioned 308 decoded pictures a second by 64 and 565 by 256, since the kernels of a step
take no longer to start for more rows; 256 take 13 GB (base size, 384 px, bfloat16)."""

SPARING = {"cpu": 256, "cuda": 512}
"""The same where texts are spared: the few pictures that still need some then fill a batch, too."""


class CaptionWorker:
    """Captions and scores images with captioners and filters (section 3.3); needs no Ray.

    `captioner` and `filter` are the round's own, `config` may name more of both, captioners of any kind
    (`caption.writers`), judges of any kind (`caption.judges`), and a second scorer. `captioner` is None where
    `config.own_writer` is false. A checkpoint that is several of these is loaded once, and encodes each image once.
    `num_threads` is torch's; on a CPU `num_lanes` parts of a batch are encoded and scored side by side, which changes
    no digit; for a GPU as many processes decode, or as there are threads. `references` are the pictures that texts are
    compared with (`pick_references`); without them texts have neither `lift` nor `distinctness`. Raises CheckpointError
    where a checkpoint cannot be read or holds no decoder or no ITM head, InputError for `cuda` without CUDA.
    """

    def __init__(
        self,
        captioner: str | Path | None,
        filter: str | Path,
        config: CaptionConfig,
        num_threads: int | None = None,
        num_lanes: int = 1,
        references: Sequence[Reference] = (),
    ) -> None:
        if num_threads:
            torch.set_num_threads(num_threads)
        self.config, self.sampler, self.device = config, resolve_sampler(config.sampler), resolve_device(config.device)
        wants_gpu = self.device.type == "cuda"
        self.batch_size = config.batch_size or (SPARING if config.spares else BATCH_SIZE)[self.device.type]
        if not wants_gpu:
            keep_freed_memory()
        self.models = Models(captioner, filter, config, self.device)
        self.image_sizes = frozenset(model.image_size for model in self.models.all)
        self.writers = Writers(config, len(self.models.captioners) * config.candidates, self.device.type)
        self.judges = Judges(config, self.device.type)
        self._sparing = Sparing(config, len(self.models.captioners), self.writers)
        self._lanes = Lanes(1 if wants_gpu else num_lanes, self._modes)
        self.compare_with(references)
        self.num_decoders = DECODE_THREADS
        self._processes: DecodeProcesses | None = None
        if wants_gpu and not config.scorer:  # a scorer makes its own pixels of the picture, with transformers
            self.decode_aside(min(max(num_threads or 1, num_lanes, DECODE_THREADS), DECODE_PROCESSES))
        known = metadata_of(config, self.sampler, self.models, captioner, filter)
        self.metadata = known | self.writers.metadata() | self.judges.metadata()

    def decode_aside(self, num_processes: int) -> None:
        """Have so many processes decode from here on; the pixels are the same."""
        self.num_decoders, self._processes = num_processes, DecodeProcesses(num_processes, self.image_sizes)

    def compare_with(self, references: Sequence[Reference]) -> None:
        """Have these be the reference pictures from here on."""
        self._compared = Compared(references, self.config.references, self.config.lift_references)

    def __call__(self, images: pa.Table) -> pa.Table:
        """Rows of `images` (IMAGE_COLUMNS) to rows of the table `captions`.

        In the order of the images; of each image the web text first, then the candidates, but for one that names an
        earlier row in `same_as`, whose candidates these are. Images whose status is not
        success have no rows; one whose bytes cannot be decoded has its web text alone, without scores.
        """
        of_images = images.select([name for name in IMAGE_COLUMNS if name in images.column_names]).to_pylist()
        return to_table([row for rows in self.in_batches(of_images) for row in rows])

    def judge(self, images: pa.Table) -> pa.Table:
        """Score given texts of given pictures as a run scores web texts, and caption the pictures beside.

        `images` are rows with `key`, `status`, `jpg` and `texts` (list of strings). Each of these is a row of source
        `web`, candidate 0, 1, ...; the captioners' own follow as in a run. The pictures may be of another set than the
        references: a reference is a picture's own where it has the same bytes. A worker without references compares
        with the first of these pictures. Captioners of `caption.writers` are not asked, and no text is spared.
        """
        config, self.config = self.config, self.config.with_all()
        writers, self.writers = self.writers, Writers(self.config.model_copy(update={"writers": ()}), 0, "cpu")
        rows, before = images.select(["key", "status", "jpg", "texts"]).to_pylist(), self._compared
        if not before:
            self.compare_with(first_readable(rows, self.config.references))
        self._compared = self._compared.of_pictures(rows)
        try:
            return to_table([row for batch in self.in_batches(rows) for row in batch])
        finally:
            self._compared, self.writers, self.config = before, writers, config

    def in_batches(self, images: Iterable[ImageRow]) -> Iterator[list[CaptionRow]]:
        """Rows of images (IMAGE_COLUMNS) to rows of captions, batch by batch as they are done."""
        return (rows for rows, _ in self.in_blocks([images]))

    def in_blocks(self, blocks: Iterable[Iterable[ImageRow]]) -> Iterator[tuple[list[CaptionRow], bool]]:
        """Blocks of rows of images to rows of captions: each batch as it is done, and whether it is its block's last.

        No batch has images of two blocks; one without any has one empty batch. The next batch is decoded while the
        models work on this one, also where it is the first of the next block, which is taken from `blocks` for that.
        """
        seen = self.image_sizes, self.models.scorer, self._processes
        with ThreadPoolExecutor(self.num_decoders, thread_name_prefix="decode") as pool:
            begun = (
                ([pool.submit(Picture, row, *seen) for row in batch], is_last, kept)
                for batch, is_last, kept in self._cut(blocks)
            )
            for pictures, rows, is_last, _ in self.judges.after(self._described(begun)):
                yield self._finish(pictures, rows), is_last

    def _described(self, begun: Iterator[tuple[list[Future[Picture]], bool, KeptAnswers]]) -> Iterator[Made]:
        """Each batch of pictures with the rows of those that were decoded."""
        if not self.writers or self.config.spares:  # who is spared is known once the texts before are scored
            for some, is_last, kept in one_ahead(begun):
                pictures = [one.result() for one in some]
                yield pictures, self._made(pictures, kept), is_last, kept
            return
        with ThreadPoolExecutor(1, thread_name_prefix="write") as writing:
            written = ((writing.submit(self._written, *batch), *batch[1:]) for batch in one_ahead(begun))
            for waiting, is_last, kept in one_ahead(written) if self.writers.wait_elsewhere else written:
                pictures = waiting.result()
                yield pictures, self._made(pictures), is_last, kept

    def _written(self, begun: list[Future[Picture]], is_last: bool, kept: KeptAnswers) -> list[Picture]:
        """A batch of pictures, once the captioners of `caption.writers` have written about them."""
        pictures = [one.result() for one in begun]
        self.writers.write(pictures, kept)
        return pictures

    def decode(self, row: ImageRow) -> Picture:
        """The picture of one row of images, decoded in this process."""
        return Picture(row, self.image_sizes, self.models.scorer)

    def _cut(self, blocks: Iterable[Iterable[ImageRow]]) -> Iterator[tuple[list[ImageRow], bool, KeptAnswers]]:
        """The images of each block in batches of the size that there is memory for by then."""
        for images in blocks:
            kept = images.kept if isinstance(images, ImageRows) else KeptAnswers()
            rows, at = [row for row in images if row["status"] == "success"], 0
            while True:
                batch = rows[at : at + self.batch_size]
                at += len(batch)
                yield batch, at == len(rows), kept
                if at == len(rows):
                    break

    def _made(self, pictures: list[Picture], kept: KeptAnswers | None = None) -> Texts:
        """The rows of the pictures of a batch that were decoded."""
        return self._make([one for one in pictures if one.decoded], kept or KeptAnswers())

    def _finish(self, pictures: list[Picture], rows: Texts) -> list[CaptionRow]:
        """All rows of a batch of pictures, in their order; `rows` are of those that were decoded."""
        made = iter(rows)
        per_picture = (next(made) if p.decoded else self._given_rows(p) for p in pictures)
        return [row for rows in per_picture for row in rows]

    def _make(self, pictures: list[Picture], kept: KeptAnswers) -> Texts:
        """The rows of each picture; the batch is halved where memory runs out, and stays so."""
        if not pictures:
            return []
        try:
            return self._spare(pictures, kept) if self.config.spares else self._run(pictures)
        except torch.OutOfMemoryError as error:
            if len(pictures) == 1:
                raise RunFailed(f"caption: {self.device} has no memory for one image; use smaller models") from error
        half = len(pictures) // 2
        self.batch_size = min(self.batch_size, half)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._make(pictures[:half], kept) + self._make(pictures[half:], kept)

    def _run(self, pictures: list[Picture]) -> Texts:
        rows = [self._given_rows(picture) for picture in pictures]
        with self._modes():
            looks = Looks(pictures, [*self.models.captioners, *self.models.filters], self._lanes)
            for place, captioner in enumerate(self.models.captioners):
                states = looks.of(captioner)
                self._write(rows, pictures, place, states)
                self._score_own(captioner, self._texts_of(rows, place), states)
            self._add_written(rows, pictures)
            self._score(rows, pictures, looks.of)
        set_agreement(rows)
        return rows

    def _score(self, rows: Texts, pictures: list[Picture], states_of: Callable[[Model], Tensor]) -> None:
        """Everybody's scores of texts but the captioners' own."""
        for filter in self.models.filters:
            compared = self._compared if filter is self._comparing else None
            score_with(filter, rows, states_of(filter), self._lanes, compared)
        combine_scores(rows, self.config.combine)
        if self._compared.num_lift:
            self._lift(rows)
        if self.models.scorer:
            score_again(self.models.scorer, rows, pictures)

    def _spare(self, pictures: list[Picture], kept: KeptAnswers) -> Texts:
        """The rows of each picture, of which no more are drawn than `caption.passes` asks for."""
        rows = [self._given_rows(picture) for picture in pictures]
        with self._modes():
            looks = Looks(pictures, self.models.all, self._lanes)
            seen = {model: looks.of(model) for model in self.models.all}

        def draw(turn: Turn, at: Sequence[int]) -> Texts:
            new: Texts = [[] for _ in at]
            some = [pictures[i] for i in at]
            if turn.writer:
                self.writers.write_some(turn.writer, turn.texts, some, kept)
                self._add_written(new, some)
            else:
                with self._modes():
                    self._write(new, some, turn.place, seen[self.models.captioners[turn.place]][at], turn.texts)
            return new

        def score(new: Texts, at: Sequence[int]) -> None:
            some = [pictures[i] for i in at]
            with self._modes():
                for place, captioner in enumerate(self.models.captioners):
                    self._score_own(captioner, self._texts_of(new, place), seen[captioner][at])
                self._score(new, some, lambda model: seen[model][at])
            if self.judges.are_asked_for(self.config.passes):
                self.judges.score(new, some, kept.scores)

        self._sparing.run(rows, pictures, kept, draw, score)
        set_agreement(rows)
        return rows

    def _texts_of(self, rows: Texts, place: int) -> Texts:
        """The texts to be read of which the captioner at `place` is the judge: its own; the first one's, given ones."""
        name = self.models.captioner_names[place]
        judges = {name, None} if place == 0 else {name}
        return [[row for row in of_image if row.captioner in judges] for of_image in to_read(rows)]

    def _score_own(self, captioner: Model, texts: Texts, states: Tensor) -> None:
        """The captioner's scores of texts beside their own pictures."""
        if self.config.web_logprob:
            given = [[row for row in of_image if row.source == "web"] for of_image in texts]
            set_logprob(captioner, given, states, self.config.prompt, self._lanes)
        set_captioner_itc(captioner, texts, states, self._lanes)

    @property
    def _comparing(self) -> Model | None:
        """The filter whose ITC finds references: the first that has any."""
        able = (filter for filter in self.models.filters if EMBED in filter.med.capabilities)
        return next(able, None) if self._compared else None

    def _lift(self, rows: Texts) -> None:
        """Each captioner's likelihoods of the texts that it judges beside the references."""
        for place, captioner in enumerate(self.models.captioners):
            num_prompt = len(captioner.tokenizer.piece_ids(self.config.prompt))
            flat = [row for of_image in self._texts_of(rows, place) for row in of_image if row.logprob is not None]
            set_lift(captioner, flat, self._compared, num_prompt, self._lanes)

    def _modes(self) -> ExitStack:
        """Torch's modes of this step, for the thread that enters them."""
        modes = ExitStack()
        modes.enter_context(torch.inference_mode())
        modes.enter_context(torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.dtype == "bfloat16"))
        return modes

    def _write(
        self, rows: Texts, pictures: list[Picture], place: int, states: Tensor, some: range | None = None
    ) -> None:
        """Give each picture that is no copy `some` captions (all) of the captioner at `place`, not yet scored."""
        own = [at for at, picture in enumerate(pictures) if not picture.first]
        if len(own) < len(pictures):
            rows, pictures, states = [rows[at] for at in own], [pictures[at] for at in own], states[own]
        captioner, first = self.models.captioners[place], place * self.config.candidates
        numbers = range(first, first + self.config.candidates) if some is None else some
        num_prompt = len(captioner.tokenizer.piece_ids(self.config.prompt))
        seeds = [[seed_of(self.config.seed, p.uid, number) for number in numbers] for p in pictures]
        written = generate(captioner.med, captioner.tokenizer, states, self.config.prompt, self.sampler, seeds)
        for picture, of_image, captions, own in zip(pictures, rows, written, seeds, strict=True):
            for number, made, seed in zip(numbers, captions, own, strict=True):
                row = CaptionRow(picture.key, "synthetic", number, fold(made.text), made.num_tokens)
                row.flags, row.seed = list(made.flags), seed
                row.pieces = (*made.ids, *([] if "cut_at_max_length" in made.flags else [captioner.tokenizer.sep_id]))
                row.set_logprob(made.logprob, num_prompt)
                row.captioner = self.models.captioner_names[place]
                if self.config.spares:  # which has costs in its rows, where others have had none
                    row.cost_completion_tokens = len(row.pieces) - num_prompt
                of_image.append(row)

    def _add_written(self, rows: Texts, pictures: list[Picture]) -> None:
        """The rows of what plugged-in captioners wrote, counted in the filter's word pieces, as web texts are."""
        tokenizer = self.models.filters[0].tokenizer
        for of_image, picture in zip(rows, pictures, strict=True):
            for row in picture.written:
                row.num_tokens = min(len(tokenizer.piece_ids(row.caption)), 2**15 - 1)
                of_image.append(row)

    def _given_rows(self, picture: Picture) -> list[CaptionRow]:
        """The web text, or those that were given; one that is only a beginning is neither counted nor scored."""
        if picture.is_cut:
            return [CaptionRow(picture.key, "web", 0, picture.texts[0], num_tokens=0, flags=[TOO_LONG])]
        tokenizer = self.models.filters[0].tokenizer
        counts = [min(len(tokenizer.piece_ids(text)), 2**15 - 1) for text in picture.texts]
        return [
            CaptionRow(picture.key, "web", i, text, counts[i], flags=list(picture.flags), first=picture.first)
            for i, text in enumerate(picture.texts)
        ]


def seed_of(seed: int, uid: str, candidate: int) -> int:
    """The seed of one caption, 63 bits, from the run's seed, the image's uid and the candidate's number alone.

    So a row of a list gets the same captions wherever it stands in the list, and in which part its picture lies.
    """
    digest = hashlib.blake2b(f"{seed}/{uid}/{candidate}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
