"""Writes what a round kept, in a format of the field: shard by shard, here or on Ray."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from blip_bootstrap import __version__
from blip_bootstrap.config import RayConfig
from blip_bootstrap.errors import AccountingError, NothingLeft
from blip_bootstrap.progress import Progress
from blip_bootstrap.storage.lock import locked
from blip_bootstrap.stores.client import THREADS
from blip_pipelines.cluster.items import HERE, Pool, run_items
from blip_pipelines.cluster.resources import num_workers, works_here
from blip_pipelines.cluster.session import connect
from blip_pipelines.cluster.tally import Counts
from blip_pipelines.export.card import RESERVED, WORDS_OF_HOSTS
from blip_pipelines.export.formats import FORMS
from blip_pipelines.export.joined import Batch, batches, read_texts
from blip_pipelines.export.note import Done, check_seen, claim, finish, read_done, total
from blip_pipelines.export.place import Place
from blip_pipelines.export.shards import Shard, plan_shards
from blip_pipelines.export.source import Ledger, Source

FORM = 1
"""Rises when the same round would be written otherwise."""

SUMS = "SHA256SUMS"
"""The digests of all shards, as `sha256sum -c` reads them."""

FEW_SHARDS = 8
"""So few are written in this process where a local Ray would have to be started for them."""


@dataclass(frozen=True)
class Wanted:
    """What an export is: its format, every text or the kept ones, and how many pictures are in a shard."""

    form: str
    every: bool = False
    rows_per_shard: int | None = None


def export_round(source: Source, ledger: Ledger, place: Place, wanted: Wanted, ray: RayConfig) -> dict[str, int]:
    """Write a round to `place`, which is new or holds what a killed export of the same left; counts of what is there.

    Raises InputError where the place holds something else or cannot be written, NothingLeft where there is no text to
    give out, and AccountingError where kept texts are missing.
    """
    if not ledger.pairs.get("rows" if wanted.every else "kept", 1):
        raise NothingLeft(f"round {ledger.round}: it kept no text, so there is nothing to export; --all exports all")
    recipe = {
        "format": wanted.form, "round": ledger.round, "all": wanted.every, "rows_per_shard": wanted.rows_per_shard,
        "inputs": ledger.digests(), "form": FORM,
    }  # fmt: skip
    is_finished = claim(place, recipe)
    if not place.is_here:
        return _export(source, ledger, place, wanted, ray, recipe, is_finished)
    with locked(place.local):
        place.sweep()
        return _export(source, ledger, place, wanted, ray, recipe, is_finished)


def _export(
    source: Source,
    ledger: Ledger,
    place: Place,
    wanted: Wanted,
    ray: RayConfig,
    recipe: Mapping[str, Any],
    is_finished: bool,
) -> dict[str, int]:
    shards = list(plan_shards(source, wanted.every, wanted.rows_per_shard))
    form = FORMS[wanted.form]
    is_joined = bool(is_finished and form.joined and place.size(form.joined) is not None)
    done = _done_before(place, shards, is_joined)
    todo = [shard for shard in shards if shard.name not in done]
    before = total(one.counts for one in done.values())
    with Progress("export", None if wanted.every else ledger.pairs.get("kept"), unit="texts") as progress:
        progress.begin(before.get("texts", 0))
        if todo:
            _run(todo, source, place, wanted, recipe, ray, progress, before, done)
    if todo or not is_finished:
        _end(place, wanted, ledger, source, recipe, [done[shard.name] for shard in shards])
    return total(one.counts for one in done.values())


def _done_before(place: Place, shards: Sequence[Shard], are_joined: bool) -> dict[str, Done]:
    """The shards that are whole already; `are_joined`: their pieces are gone, and the file made of them is there."""
    there = place.names(".parts")
    known = [shard.name for shard in shards if f"{shard.name}.json" in there]
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(partial(read_done, place, are_joined=are_joined), known)
        return {one.name: one for one in found if one}


def _run(
    todo: Sequence[Shard],
    source: Source,
    place: Place,
    wanted: Wanted,
    recipe: Mapping[str, Any],
    ray: RayConfig,
    progress: Progress,
    before: dict[str, int],
    done: dict[str, Done],
) -> None:
    def take(one: Done) -> None:
        done[one.name] = one

    work = partial(ShardExport, source, place, wanted, recipe)
    run_items("export", todo, work, _pool(ray, len(todo)), take, progress, before)


def _pool(ray: RayConfig, num_shards: int) -> Pool:
    """This process, or as many workers of Ray's as its CPUs carry."""
    if works_here(ray, num_shards) or (ray.address == "local" and num_shards <= FEW_SHARDS):
        return HERE
    connect(ray)
    return Pool(num_workers(ray, 0, cpus_each=1, at_most=num_shards))


class ShardExport:
    """What a worker runs: writes shards one after another, and a note beside each."""

    def __init__(
        self, source: Source, place: Place, wanted: Wanted, recipe: Mapping[str, Any], *, tally: Counts
    ) -> None:
        self._source, self._place, self._wanted, self._tally = source, place, wanted, tally
        check_seen(place, recipe, f"node {socket.gethostname()}")

    def __call__(self, shard: Shard) -> Iterator[Done]:
        """Write a shard unless it is there: Ray repeats a finished item whose result was lost."""
        done = read_done(self._place, shard.name)
        if done is None:
            done = self._written(shard)
            done.write(self._place)
        self._tally.put(shard.name, {name: done.counts[name] for name in ("pictures", "texts")})
        yield done

    def _written(self, shard: Shard) -> Done:
        form, counts, datasets = FORMS[self._wanted.form], Counter[str](pictures=0, texts=0), Counter[str]()
        found = _counted(self._batches(shard), counts, datasets)
        first = next(found, None)
        files = form.write(self._place, shard.name, chain([first], found)) if first else []
        done = Done(shard.name, tuple(files), dict(sorted(counts.items())), dict(sorted(datasets.items())))
        if form.after and files:
            form.after(self._place, done)
        return done

    def _batches(self, shard: Shard) -> Iterator[Batch]:
        columns = FORMS[self._wanted.form].columns
        for one in shard.slices:
            texts = read_texts(one.part, self._source, self._wanted.every)
            if texts.rows:
                yield from batches(one.part, texts, columns, one.first, one.last)


def _counted(found: Iterator[Batch], counts: Counter[str], datasets: Counter[str]) -> Iterator[Batch]:
    """The same batches, counted as they pass: pictures, texts, kept ones by source, and pictures by their list."""
    for batch in found:
        counts.update(pictures=len(batch), texts=len(batch.texts))
        kept = batch.texts.filter(batch.texts["kept"])
        counts["kept"] += len(kept)
        for one in kept["source"].value_counts().to_pylist():
            counts[f"kept_{one['values']}"] += one["counts"]
        counts.update({f"{RESERVED}{name}": num for name, num in _reserved(batch).items() if num})
        for one in batch.images["dataset"].value_counts().to_pylist():
            datasets[str(one["values"] or "")] += one["counts"]
        yield batch


def _reserved(batch: Batch) -> dict[str, int]:
    """The pictures whose hosts said something about such use, by the column that has it."""
    names = [name for name in WORDS_OF_HOSTS if name in batch.images.schema.names]
    return {name: len(batch) - batch.images[name].null_count for name in names}


def _end(
    place: Place,
    wanted: Wanted,
    ledger: Ledger,
    source: Source,
    recipe: Mapping[str, Any],
    done: Sequence[Done],
) -> None:
    """Write what is one file for all shards, and the note that says that all is there."""
    counts = total(one.counts for one in done)
    expected, left_out = ledger.pairs.get("kept"), 0 if wanted.every else source.num_left_out()
    if expected is not None and counts.get("kept", 0) + left_out != expected:
        without = f" without the {left_out} of pictures that training leaves out" if left_out else ""
        found = f"{counts.get('kept', 0)} kept texts are here{without}"
        raise AccountingError(f"{place.told}: {found}, the round has {expected}")
    if left_out:
        counts["left_out"] = left_out
    judged = source.judged_by
    told = {
        "counts": counts,
        "datasets": total(one.datasets for one in done),
        "txt": f"the kept text with the highest {judged}, the first of equals" if judged else "the first kept text",
        "made_by": f"blip-bootstrap {__version__}",
    }
    form = FORMS[wanted.form]
    files = form.end(place, done, ledger, told)
    place.write(SUMS, "".join(f"{sha256}  {name}\n" for name, _, sha256 in sorted(files)).encode())
    finish(place, recipe, {**told, "files": len(files)})
    if form.drop:
        form.drop(place, [one.name for one in done if one.files])
