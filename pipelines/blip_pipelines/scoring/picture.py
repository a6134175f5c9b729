"""One picture of a batch: its row, and its pixels for every model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from blip_bootstrap.errors import InputError
from blip_pipelines.failures.aside import Died
from blip_pipelines.scoring.decoders import DecodeProcesses
from blip_pipelines.scoring.rows import CaptionRow, fold
from blip_training.data.decode import decode_image
from blip_training.data.pixels import to_pixels
from blip_training.evaluate.clip_scorer import ClipScorer, Pixels


class Picture:
    """One image: its key, its given texts, and its pixels by image size; without pixels where the bytes are no picture.

    The texts that are given are the row's `texts`; where it has none, the web text alone. `uid` is what the image is
    known by in any run: its key where its set has no uids, as sets of people's captions have none. `first` is the
    earlier row that has the same picture, and its captions, if there is one. `flags` say what the process died of that
    decoded it.
    """

    def __init__(
        self,
        row: dict[str, Any],
        sizes: frozenset[int],
        scorer: ClipScorer | None,
        processes: DecodeProcesses | None = None,
    ) -> None:
        given = [row["caption"]] if row.get("texts") is None else row["texts"]
        self.key, self.texts = row["key"], [fold(text or "") for text in given]
        self.uid: str = row.get("uid") or row["key"]
        self.first: str | None = row.get("same_as")
        self.is_cut = row.get("texts") is None and row.get("cut_from_chars") is not None
        self.pixels: dict[int, Tensor] = {}
        self.scorer_pixels: Pixels | None = None
        self.jpg: bytes = row["jpg"] or b""
        self.written: list[CaptionRow] = []
        # Where it cannot be decoded, the row stays, unscored: one damaged picture must not cost its batch.
        self.flags: list[str] = []
        try:
            if processes:
                self.pixels = processes.pixels(self.jpg, self.key)
            else:
                self._decode(self.jpg, sizes, scorer)
        except InputError:
            pass
        except Died as died:
            self.flags.append(died.reason)

    def _decode(self, encoded: bytes, sizes: frozenset[int], scorer: ClipScorer | None) -> None:
        image = decode_image(encoded, self.key)
        self.pixels = {size: to_pixels(image, size) for size in sizes}
        self.scorer_pixels = scorer.to_pixels(image) if scorer else None

    @property
    def decoded(self) -> bool:
        """Whether the bytes were a picture."""
        return bool(self.pixels)
