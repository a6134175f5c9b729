"""The formats of an export: how a shard is written, what is read for it, and what is written when all shards are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blip_pipelines.export.card import write_card
from blip_pipelines.export.joined import ABOUT_PICTURES, PICTURE, Batch
from blip_pipelines.export.lists import COCO, Written, drop_pieces, join_coco, write_blip, write_coco_part
from blip_pipelines.export.note import Done
from blip_pipelines.export.parquet import write_hub, write_plain
from blip_pipelines.export.place import Place
from blip_pipelines.export.source import Ledger
from blip_pipelines.export.tar import SIZES, write_stats, write_tar
from blip_pipelines.export.uids import UIDS, drop_uids, join_uids, write_uids_part

Ended = Callable[[Place, Sequence[Done], Ledger, Mapping[str, Any]], Written]


@dataclass(frozen=True)
class Form:
    """A format: `write` makes a shard, `end` what is one file for all of them; `columns` of `images` are read."""

    write: Callable[[Place, str, Iterator[Batch]], Written]
    end: Ended
    columns: Sequence[str] = (*ABOUT_PICTURES, PICTURE)
    after: Callable[[Place, Done], None] | None = None
    """Done beside each shard."""
    joined: str | None = None
    """The one file of which the shards are pieces; None where they are files of their own."""
    drop: Callable[[Place, Sequence[str]], None] | None = None
    """Deletes the pieces, once all is there."""


def _end_tar(place: Place, done: Sequence[Done], ledger: Ledger, told: Mapping[str, Any]) -> Written:
    sizes = {file: one.counts["pictures"] for one in done for file, _, _ in one.files}
    place.write(SIZES, (json.dumps(sizes) + "\n").encode())
    return _files(done)


def _end_hub(place: Place, done: Sequence[Done], ledger: Ledger, told: Mapping[str, Any]) -> Written:
    write_card(place, ledger, told)
    return _files(done)


def _end_coco(place: Place, done: Sequence[Done], ledger: Ledger, told: Mapping[str, Any]) -> Written:
    about = {"description": f"{ledger.run}, round {ledger.round}", "digests": ledger.digests()}
    return join_coco(place, _names(done), about)


def _end_uids(place: Place, done: Sequence[Done], ledger: Ledger, told: Mapping[str, Any]) -> Written:
    written, _ = join_uids(place, _names(done), told["counts"]["pictures"])
    return written


def _end(place: Place, done: Sequence[Done], ledger: Ledger, told: Mapping[str, Any]) -> Written:
    return _files(done)


def _files(done: Sequence[Done]) -> Written:
    return [file for one in done for file in one.files]


def _names(done: Sequence[Done]) -> list[str]:
    return [one.name for one in done if one.files]


FORMS: dict[str, Form] = {
    "webdataset": Form(write_tar, _end_tar, after=write_stats),
    "hf": Form(write_hub, _end_hub),
    "parquet": Form(write_plain, _end),
    "blip-json": Form(write_blip, _end),
    "coco-json": Form(write_coco_part, _end_coco, joined=COCO, drop=drop_pieces),
    "uid-npy": Form(write_uids_part, _end_uids, columns=("uid", "dataset"), joined=UIDS, drop=drop_uids),
}
"""By the name that `export --format` takes."""
