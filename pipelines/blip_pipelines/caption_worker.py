"""What one captioning actor does: images as Arrow in, their web text and synthetic captions with scores out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from blip_bootstrap import __version__
from blip_bootstrap.config import CaptionConfig
from blip_bootstrap.errors import InputError, RunFailed
from blip_bootstrap.tables import CAPTIONS, rows_to_table

if TYPE_CHECKING:
    from torch import Tensor

    from blip_training.decoding import Generated

IMAGE_COLUMNS = ["key", "status", "caption", "jpg"]
"""What the worker needs of the table `images`."""

DECODE_THREADS = 2
IMAGES_PER_MATCH = 16
"""Images of one ITM call. Each image's keys and values are made once, whatever the number of its texts."""

Row = dict[str, Any]


class Picture:
    """One image: its row, and its pixels for the captioner and the filter (None: the bytes cannot be decoded)."""

    def __init__(self, row: Row, captioner_px: int, filter_px: int) -> None:
        from blip_training.images import decode_image, to_pixels

        self.key, self.web_text = row["key"], fold(row["caption"] or "")
        self.captioner_pixels: Tensor | None = None
        self.filter_pixels: Tensor | None = None
        try:
            image = decode_image(row["jpg"] or b"", self.key)
        except InputError:
            return  # the row stays, unscored: one damaged picture must not cost its batch
        self.captioner_pixels = to_pixels(image, captioner_px)
        same = filter_px == captioner_px
        self.filter_pixels = self.captioner_pixels if same else to_pixels(image, filter_px)


class CaptionWorker:
    """Captions and scores images with one captioner and one filter (section 3.3); needs no Ray.

    Where both are the same checkpoint it is loaded once, and each image is encoded once. `num_threads` is torch's.
    Raises CheckpointError where a checkpoint cannot be read or holds no decoder or no ITM head.
    """

    def __init__(
        self, captioner: str | Path, filter: str | Path, config: CaptionConfig, num_threads: int | None = None
    ) -> None:
        import torch

        from blip_training.checkpoint import load_med
        from blip_training.decoding import resolve_sampler
        from blip_training.med import require

        if num_threads:
            torch.set_num_threads(num_threads)
        wants_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
        self.config, self.sampler, self.batch_size = config, resolve_sampler(config.sampler), config.batch_size
        self.device = torch.device("cuda" if wants_gpu else "cpu")
        self.captioner, self.captioner_tokenizer = load_med(captioner, self.device)
        self.filter, self.filter_tokenizer = self.captioner, self.captioner_tokenizer
        if digest_of_model(filter) != digest_of_model(captioner):
            self.filter, self.filter_tokenizer = load_med(filter, self.device)
        require(self.captioner, "decode", captioner)
        require(self.filter, "match", filter)
        self.metadata = self._metadata(captioner, filter)

    def __call__(self, images: pa.Table) -> pa.Table:
        """Rows of `images` (IMAGE_COLUMNS) to rows of the table `captions`.

        In the order of the images; of each image the web text first, then the candidates. Images whose status is not
        success have no rows; one whose bytes cannot be decoded has its web text alone, without scores.
        """
        return rows_to_table([row for rows in self.in_batches(images) for row in rows], CAPTIONS)

    def in_batches(self, images: pa.Table) -> Iterator[list[Row]]:
        """The same, batch by batch as they are done. The next batch is decoded while the model works on this one."""
        rows = [row for row in images.select(IMAGE_COLUMNS).to_pylist() if row["status"] == "success"]
        sizes = self.captioner.config.vision.image_size, self.filter.config.vision.image_size
        with ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode") as pool:
            ahead = [pool.submit(Picture, row, *sizes) for row in rows[: self.batch_size]]
            at = len(ahead)
            while ahead:
                batch, upcoming = ahead, rows[at : at + self.batch_size]
                ahead = [pool.submit(Picture, row, *sizes) for row in upcoming]
                at += len(ahead)
                yield self._finish([picture.result() for picture in batch])

    def _finish(self, pictures: list[Picture]) -> list[Row]:
        """All rows of a batch of pictures, in their order."""
        made = iter(self._make([p for p in pictures if p.captioner_pixels is not None]))
        per_picture = ([self._web_row(p)] if p.captioner_pixels is None else next(made) for p in pictures)
        return [row for rows in per_picture for row in rows]

    def _make(self, pictures: list[Picture]) -> list[list[Row]]:
        """The rows of each picture; the batch is halved where memory runs out, and stays so."""
        import torch

        if not pictures:
            return []
        try:
            return self._run(pictures)
        except torch.OutOfMemoryError as error:
            if len(pictures) == 1:
                raise RunFailed(f"caption: {self.device} has no memory for one image; use smaller models") from error
        half = len(pictures) // 2
        self.batch_size = min(self.batch_size, half)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._make(pictures[:half]) + self._make(pictures[half:])

    def _run(self, pictures: list[Picture]) -> list[list[Row]]:
        import torch

        with torch.inference_mode(), self._autocast():
            states = self.captioner.encode_image(_stack(p.captioner_pixels for p in pictures))
            rows = self._write(pictures, states)
            if self.filter is not self.captioner:
                states = self.filter.encode_image(_stack(p.filter_pixels for p in pictures))
            self._score(rows, states)
        return rows

    def _autocast(self) -> AbstractContextManager[Any]:
        import torch

        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.dtype == "bfloat16")

    def _write(self, pictures: list[Picture], states: Tensor) -> list[list[Row]]:
        """Each picture's web text and new captions, not yet scored."""
        from blip_training.decoding import generate

        seeds = [[seed_of(self.config.seed, p.key, k) for k in range(self.config.candidates)] for p in pictures]
        written = generate(self.captioner, self.captioner_tokenizer, states, self.config.prompt, self.sampler, seeds)
        return [
            [self._web_row(p), *_synthetic_rows(p.key, made, own)]
            for p, made, own in zip(pictures, written, seeds, strict=True)
        ]

    def _web_row(self, picture: Picture) -> Row:
        num_tokens = len(self.filter_tokenizer.piece_ids(picture.web_text))
        return _row(picture.key, "web", 0, picture.web_text, num_tokens=min(num_tokens, 2**15 - 1))

    def _score(self, rows: list[list[Row]], states: Tensor) -> None:
        """Give every text that is not blank its ITM and ITC score against its image.

        Images whose longest texts are alike go together: padding is computed too.
        """
        texts = [[row for row in of_image if row["caption"]] for of_image in rows]
        lengths = [max((row["num_tokens"] for row in of_image), default=0) for of_image in texts]
        order = sorted((i for i in range(len(rows)) if texts[i]), key=lambda i: (lengths[i], i))
        for start in range(0, len(order), IMAGES_PER_MATCH):
            chosen = order[start : start + IMAGES_PER_MATCH]
            self._score_some([texts[i] for i in chosen], states[chosen])

    def _score_some(self, texts: list[list[Row]], states: Tensor) -> None:
        import torch

        flat = [row for of_image in texts for row in of_image]
        image_of_row = torch.tensor([i for i, of_image in enumerate(texts) for _ in of_image], device=self.device)
        ids, mask = self.filter_tokenizer.encode([row["caption"] for row in flat], self.filter.config.text.max_tokens)
        ids, mask = ids.to(self.device), mask.to(self.device)
        logits = self.filter.match(states, ids, mask, image_of_row)
        itm = logits.float().softmax(dim=1)[:, 1].tolist()
        itc = self._itc(states, ids, mask, image_of_row)
        for row, itm_score, itc_score in zip(flat, itm, itc, strict=True):
            row["itm_score"], row["itc_score"] = itm_score, itc_score

    def _itc(self, states: Tensor, ids: Tensor, mask: Tensor, image_of_row: Tensor) -> list[float | None]:
        """Cosines of the ITC embeddings; None where the filter's checkpoint has no ITC."""
        if "embed" not in self.filter.capabilities:
            return [None] * len(ids)
        images, texts = self.filter.embed_image(states), self.filter.embed_text(ids, mask)
        cosines: list[float | None] = (images[image_of_row] * texts).sum(1).float().tolist()
        return cosines

    def _metadata(self, captioner: str | Path, filter: str | Path) -> dict[str, str]:
        """What is the same for every row of a file."""
        return {
            "captioner": digest_of_model(captioner),
            "filter": digest_of_model(filter),
            "sampler": json.dumps(vars(self.sampler), sort_keys=True),
            "prompt": self.config.prompt,
            "candidates": str(self.config.candidates),
            "seed": str(self.config.seed),
            "dtype": self.config.dtype,
            "version": __version__,
        }


def seed_of(seed: int, key: str, candidate: int) -> int:
    """The seed of one caption, 63 bits, from the run's seed, the image and the candidate's number alone."""
    digest = hashlib.blake2b(f"{seed}/{key}/{candidate}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def fold(text: str) -> str:
    """The text with every run of whitespace as one space, none at the ends."""
    return " ".join(text.split())


def digest_of_model(source: str | Path) -> str:
    """What a model folder's MANIFEST states as its content; the name itself where there is none."""
    try:
        return str(json.loads((Path(source) / "MANIFEST.json").read_text(encoding="utf-8"))["content"])
    except (OSError, ValueError, KeyError):
        return str(source)


def _synthetic_rows(key: str, captions: list[Generated], seeds: list[int]) -> Iterator[Row]:
    for candidate, (made, seed) in enumerate(zip(captions, seeds, strict=True)):
        row = _row(key, "synthetic", candidate, fold(made.text), num_tokens=made.num_tokens)
        yield row | {"logprob": made.logprob, "flags": list(made.flags), "seed": seed}


def _row(key: str, source: str, candidate: int, caption: str, num_tokens: int) -> Row:
    empty: Row = dict.fromkeys(CAPTIONS.schema.names)
    known = {"key": key, "source": source, "candidate": candidate, "caption": caption, "num_tokens": num_tokens}
    return empty | known | {"flags": []}


def _stack(pixels: Iterator[Tensor | None]) -> Tensor:
    import torch

    return torch.stack([p for p in pixels if p is not None])
