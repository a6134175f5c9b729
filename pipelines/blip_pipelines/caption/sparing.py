"""Texts that are drawn only where they are needed: which pictures have one that passes, and whose turn is next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blip_bootstrap.config import CaptionConfig
from blip_pipelines.caption.answers import KeptAnswers
from blip_pipelines.caption.writers import Writer, Writers
from blip_pipelines.scoring.picture import Picture
from blip_pipelines.scoring.rows import CaptionRow, Texts

COLUMNS = {"itm": "itm_score", "itc": "itc_score", "clip": "clip_score"}
"""Scores whose columns have other names; all others are called as their columns, or are of a judge."""


@dataclass(frozen=True)
class Turn:
    """The texts that one captioner writes together of each picture that still needs some.

    `texts` are the numbers of candidates of the round's captioner at `place`, or places among what `writer` is asked.
    """

    texts: range
    place: int = 0
    writer: Writer | None = None
    is_last_resort: bool = False

    def is_answered(self, picture: Picture, kept: KeptAnswers) -> bool:
        """Whether an answer was paid for already, by a try before this one."""
        return self.writer is not None and self.writer.has_some(picture, kept, self.texts)


Draw = Callable[[Turn, Sequence[int]], Texts]
"""The new rows of pictures, by their places in a batch, not yet scored."""

Score = Callable[[Texts, Sequence[int]], None]
"""Sets the scores of new rows of pictures, by their places in a batch."""


class Sparing:
    """Has texts drawn in turns over a batch, until each picture has one that passes (`caption.passes`).

    A picture's texts are those that a plain run draws first, whatever else is in its batch: a text's seed is its own.
    """

    def __init__(self, config: CaptionConfig, num_captioners: int, writers: Writers) -> None:
        self._config = config
        self._turns = [*turns_of(config, num_captioners, writers)]
        self._num_texts = sum(len(turn.texts) for turn in self._turns)

    def run(self, rows: Texts, pictures: Sequence[Picture], kept: KeptAnswers, draw: Draw, score: Score) -> None:
        """Add to the web texts in `rows` the others, turn by turn, all scored, and set `spared` of the web texts."""
        score(rows, range(len(pictures)))
        own = [at for at, picture in enumerate(pictures) if not picture.first]
        for turn in self._turns:
            at = [i for i in own if turn.is_answered(pictures[i], kept) or self._is_open(rows[i], turn)]
            if at:
                new = draw(turn, at)
                score(new, at)
                for i, texts in zip(at, new, strict=True):
                    rows[i] += texts
        for i in own:
            rows[i][0].spared = self._num_texts - sum(row.source == "synthetic" for row in rows[i])

    def _is_open(self, rows: Sequence[CaptionRow], turn: Turn) -> bool:
        """Whether the picture with these texts needs those of the turn."""
        web, written = ([row for row in rows if (row.source == "web") is is_web] for is_web in (True, False))
        if (turn.is_last_resort or self._config.when == "web_fails") and self._any_passes(web):
            return False
        return not ((turn.is_last_resort or self._config.until_passes) and self._any_passes(written))

    def _any_passes(self, rows: Sequence[CaptionRow]) -> bool:
        return any(passes(row, self._config.passes[row.source]) for row in rows)


def turns_of(config: CaptionConfig, num_captioners: int, writers: Writers) -> Iterator[Turn]:
    """Who writes when: the round's captioners, `caption.writers`, and the one of these that is the last resort."""
    for place in range(num_captioners):
        first = place * config.candidates
        yield from (Turn(texts, place) for texts in _cut(range(first, first + config.candidates), config))
    for writer in sorted(writers.all, key=lambda one: one.config.name == config.escalate_to):
        for texts in _cut(range(len(writer.wanted)), config):
            yield Turn(texts, writer=writer, is_last_resort=writer.config.name == config.escalate_to)


def _cut(texts: range, config: CaptionConfig) -> Iterator[range]:
    """Texts one by one where they are drawn until one passes, else all of them together."""
    size = 1 if config.until_passes else len(texts)
    return (texts[at : at + size] for at in range(0, len(texts), size))


def passes(row: CaptionRow, rule: Mapping[str, float]) -> bool:
    """Whether a text has at least these scores, as the table holds them, and no flag; one without a score has not."""
    if row.flags or not row.is_read:
        return False
    return all(_reaches(row, name, least) for name, least in rule.items())


def _reaches(row: CaptionRow, name: str, least: float) -> bool:
    column = COLUMNS.get(name, name)
    if not hasattr(row, column):  # of a judge, a double in the table
        return dict(row.scores or []).get(name, -np.inf) >= least
    score = getattr(row, column)
    return score is not None and bool(np.float32(score) >= np.float32(least))
