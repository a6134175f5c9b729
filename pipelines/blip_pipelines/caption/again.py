"""What is to be done of a block: all of its pictures, or those alone whose texts are asked for again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.closed_lists import NO_ANSWERS
from blip_bootstrap.schemas.tables import CAPTIONS
from blip_bootstrap.storage.parquet import read_parquet
from blip_pipelines.caption.answers import ImageRows, KeptAnswers, OfPicture, name_of
from blip_pipelines.captioners.interface import Answer
from blip_pipelines.scoring.rows import CaptionRow

CAPTIONS_AGAIN = "captions"
"""`--retry captions` asks plugged-in captioners again for the texts that they did not write."""


def reasons_of(retry: str) -> tuple[str, ...]:
    """The reasons for which texts are asked for again: of `captions` all, of `captions:REASON` one. InputError else."""
    what, _, reason = retry.partition(":")
    if what != CAPTIONS_AGAIN or (reason and reason not in NO_ANSWERS):
        raise InputError(f"retry {retry}: is captions, or captions:REASON with one of {', '.join(NO_ANSWERS)}")
    return (reason,) if reason else NO_ANSWERS


@dataclass(frozen=True)
class Again:
    """Captions that were made before (a folder, or of a block its file), and the reasons to ask for texts again."""

    before: str
    reasons: tuple[str, ...]

    def of_part(self, name: str) -> Again:
        """The same of one file of the folder."""
        return replace(self, before=str(Path(self.before) / name))

    def rows(self, keys: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """The rows of before of these pictures, by key."""
        table = read_parquet(Path(self.before))
        found: dict[str, list[dict[str, Any]]] = {}
        for row in table.filter(pc.is_in(table["key"], pa.array(keys, pa.string()))).to_pylist():
            found.setdefault(row["key"], []).append(row)
        return found

    def wants(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a text of a picture with these rows is to be asked for again."""
        return any(row["prompt"] is not None and set(row["flags"]) & set(self.reasons) for row in rows)


@dataclass
class BlockWork:
    """A block's pictures that are to be captioned, and the rows of those that have all their texts."""

    images: ImageRows
    done: dict[str, list[CaptionRow]]
    keys: list[str]

    @property
    def rows_done(self) -> list[CaptionRow]:
        """The rows of pictures that are not captioned again."""
        return [row for rows in self.done.values() for row in rows]

    def in_order(self, made: Sequence[CaptionRow]) -> list[CaptionRow]:
        """All rows of the block, in the order of its pictures."""
        if not self.done:
            return list(made)
        of_key = dict(self.done)
        for row in made:
            of_key.setdefault(row.key, []).append(row)
        return [row for key in self.keys for row in of_key.get(key, ())]


def work_of(images: list[dict[str, Any]], output: Path, again: Again | None) -> BlockWork:
    """What is to be done of a block whose captions go to `output`: of these rows of images."""
    keys = [row["key"] for row in images]
    if again is None:
        return BlockWork(_images(images, KeptAnswers.beside(output)), {}, keys)
    before = again.rows(keys)
    lacking = {key for key, rows in before.items() if again.wants(rows)}
    known = {key: _answers(before[key]) for key in lacking}
    done = {key: [_as_row(row) for row in rows] for key, rows in before.items() if key not in lacking}
    return BlockWork(
        _images([row for row in images if row["key"] in lacking], KeptAnswers.beside(output, known)), done, keys
    )


def _images(rows: list[dict[str, Any]], kept: KeptAnswers) -> ImageRows:
    found = ImageRows(rows)
    found.kept = kept
    return found


def _as_row(row: Mapping[str, Any]) -> CaptionRow:
    columns: dict[str, Any] = {name: row.get(name) for name in CAPTIONS.schema.names}
    return CaptionRow(**columns)


def _answers(rows: Sequence[Mapping[str, Any]]) -> OfPicture:
    """The answers from which the rows of a picture were made."""
    found: OfPicture = {}
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["prompt"] is not None:
            of = row["captioner"], row["prompt"]
            counts[of] = counts.get(of, -1) + 1
            found[name_of(*of, counts[of])] = _answer(row)
    return found


def _answer(row: Mapping[str, Any]) -> Answer:
    cost = {name.removeprefix("cost_"): row[name] for name in row if name.startswith("cost_") and row[name] is not None}
    error = next((flag for flag in row["flags"] if flag in NO_ANSWERS), None)
    if error:
        return Answer.failed(error, cost)
    per_token, logprob = row["logprob_per_token"], row["logprob"]
    num_tokens = round(logprob / per_token) if logprob and per_token else None
    flags = tuple(flag for flag in row["flags"] if flag != "empty")
    return Answer(row["raw_caption"] or row["caption"], num_tokens, logprob, flags, cost=cost)
