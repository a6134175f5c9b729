"""Rows of the table `captions` while they are made: a text of an image, and the scores that it gets one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from blip_bootstrap.schemas.tables import CAPTIONS

IMAGE_COLUMNS = ["key", "uid", "status", "caption", "jpg", "cut_from_chars", "same_as"]
"""What captioning needs of the table `images`; the last two are absent from those of earlier versions."""

TOO_LONG = "text_too_long"
"""The flag of a web text that was too long to be stored whole; its beginning is not judged for it."""


@dataclass(slots=True)
class CaptionRow:
    """One text of one image; a field is a column of the table `captions`, None until it is known.

    Apart from the last three. `first` is the earlier row whose picture it has, if it is a copy. `pieces` are the text's
    tokens as its captioner wrote or reads them, after the first one: the prompt, the text, and [SEP] where it ends with
    that. `nearest` are the references that are most like it.
    """

    key: str
    source: str
    candidate: int
    caption: str
    num_tokens: int
    flags: list[str] = field(default_factory=list)
    seed: int | None = None
    captioner: str | None = None
    logprob: float | None = None
    itm_score: float | None = None
    itc_score: float | None = None
    itm_scores: list[float] | None = None
    itc_scores: list[float | None] | None = None
    clip_score: float | None = None
    logprob_per_token: float | None = None
    lift: float | None = None
    agreement: float | None = None
    captioner_itc: float | None = None
    distinctness: float | None = None
    prompt: str | None = None
    prompt_digest: str | None = None
    raw_caption: str | None = None
    cost_requests: float | None = None
    cost_prompt_tokens: float | None = None
    cost_completion_tokens: float | None = None
    cost_seconds: float | None = None
    scores: list[tuple[str, float]] | None = None
    scores_lacking: list[tuple[str, str]] | None = None
    spared: int | None = None
    first: str | None = None
    pieces: tuple[int, ...] = ()
    nearest: tuple[int, ...] = ()

    @property
    def is_read(self) -> bool:
        """Whether filters score this text: one that is blank, or was stored cut, they do not."""
        return bool(self.caption) and TOO_LONG not in self.flags

    def set_logprob(self, logprob: float, num_prompt: int) -> None:
        """Set `logprob` and, by the number of pieces after the prompt's, `logprob_per_token`."""
        self.logprob = logprob
        if len(self.pieces) > num_prompt:
            self.logprob_per_token = logprob / (len(self.pieces) - num_prompt)

    @property
    def counters(self) -> list[str]:
        """The counters of the step that this row moves; each image has one web text, which counts the image."""
        first = ["images", "web"] if self.source == "web" else ["synthetic"]
        spared = ["spared"] * (self.spared or 0)
        return [*first, *(["not_scored"] if self.itm_score is None else []), *self.flags, *spared]


def fold(text: str) -> str:
    """The text with every run of whitespace as one space, none at the ends."""
    return " ".join(text.split())


Texts = list[list[CaptionRow]]
"""For each picture the rows of its texts, the web's first."""


def to_table(rows: Sequence[CaptionRow]) -> pa.Table:
    """The rows as Arrow, with the schema of the table `captions`."""
    known = {name: [getattr(row, name) for row in rows] for name in CAPTIONS.schema.names}
    return pa.Table.from_pydict(known, schema=CAPTIONS.schema)
