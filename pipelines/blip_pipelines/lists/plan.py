"""What is to be fetched: shards of the lists, rows that other artifacts of images lack, or parts that were lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from blip_bootstrap.config import DownloadConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.closed_lists import ERROR_CLASSES
from blip_bootstrap.storage.files import sync, write_durable
from blip_bootstrap.storage.parquet import read_parquet
from blip_bootstrap.storage.parts import LEFT_OUT, borrow, read_left_out
from blip_bootstrap.storage.run_folder import MANIFEST, named_files, read_json
from blip_bootstrap.storage.withdrawn import withdrawn_of
from blip_bootstrap.stores.store import gone
from blip_pipelines.lists.extend import digests_of, extend
from blip_pipelines.lists.growth import Growing, no_rows
from blip_pipelines.lists.known import KNOWN
from blip_pipelines.lists.pool import (
    BEFORE,
    ROWS,
    fill_pool,
    free_number,
    is_made_in,
    part_names,
    scratch,
)
from blip_pipelines.lists.shards import Cutter, write_shards
from blip_pipelines.lists.url_lists import AnyList, num_rows, write_rows_of

PLAN = ".plan.json"
"""In what is half-made: the plan, written once all of its shards are."""


@dataclass(frozen=True)
class Plan:
    """What an artifact of images is to be: a part for each of `shards`, with `num_listed` rows of the lists in all.

    `removed` are rows of parts, by name, that are in no list any more. `is_plain`: no row is left out, so that nothing
    is to be looked for. `lists` are digests of the lists, by which one is known that is there again; `limit` is the
    setting.
    """

    shards: Sequence[Path]
    num_listed: int
    removed: Mapping[str, Sequence[Sequence[int]]]
    is_plain: bool
    base: str | None = None
    """The artifact of which all parts are parts of this one, too, beside those of `shards`."""
    lists: Sequence[str] | None = None
    limit: int | None = None


def plan_parts(
    out: Path, lists: Sequence[AnyList], config: DownloadConfig, kin: Sequence[Path], retry: str | None
) -> Plan:
    """Decide which parts of `kin` the artifact in `out` has, link them, and write the shards that are to be fetched.

    Rows of the lists are known by their uids. Nothing is fetched that `out` or one of `kin` has, but for rows that have
    failed, where `retry` names them. A plan that a killed run has left is gone on with, unless the parts of `kin` are
    others since. Raises InputError where a list cannot be read, or there is no row, or none to try again.
    """
    failed_class(retry)
    seen = sorted(f"{one.name}/{name}" for one in kin for name in part_names(one) if not is_made_in(out, one / name))
    note = read_json(out / PLAN) or {}
    if (note.get("seen"), note.get("retry")) != (seen, retry):
        out.mkdir(parents=True, exist_ok=True)
        _take_over_shards(out)
        with scratch(out) as db:
            plan = _plan(db, out, lists, config, kin, retry)
        note = {"seen": seen, "retry": retry, "plan": {k: v for k, v in vars(plan).items() if k != "shards"}}
        sync(out / ROWS)  # before the plan: after a power cut, too, it stands for all of its shards
        write_durable(out / PLAN, json.dumps(note))
    plan = Plan([], **note["plan"])
    borrowed = named_files(out.parent / plan.base) or {} if plan.base else {}
    return replace(plan, shards=[out / ROWS / name for name in part_names(out / ROWS) if name not in borrowed])


def _plan(
    db: duckdb.DuckDBPyConnection,
    out: Path,
    lists: Sequence[AnyList],
    config: DownloadConfig,
    kin: Sequence[Path],
    retry: str | None,
) -> Plan:
    """The plan, once its shards are written; in the quickest of three ways."""
    digests = digests_of(lists)
    if digests and not retry and (found := extend(db, out, lists, digests, config, kin)):
        made, num_listed, base = found
        removed = {part: kinds.get("removed", []) for part, kinds in read_left_out(out.parent / base).items()}
        return Plan(made, num_listed, removed, False, base, digests, config.limit)
    growing = Growing(db, out, lists, config, fill_pool(db, out, kin), free_number([out, *kin]))
    if growing.has_any:
        num_listed, removed = growing.grow(retry is not None, failed_class(retry))
        plan = Plan([], num_listed, removed, is_plain=False)
    else:
        plan = _cut_anew(db, out, lists, config, kin)
    return replace(plan, lists=digests, limit=config.limit)


def failed_class(retry: str | None) -> str | None:
    """The error class of the rows to try again; None: all that have failed. Raises InputError for no such class."""
    what, _, name = (retry or "failed").partition(":")
    known = [one for one in ERROR_CLASSES if one not in ("blank_url", "duplicate_row")]
    if what != "failed" or (name and name not in known):
        raise InputError(f"retry {retry}: is failed, or failed:CLASS with one of {', '.join(known)}")
    return name or None


def _take_over_shards(out: Path) -> None:
    """Take the shards of a download that an earlier version of this program has begun."""
    shutil.rmtree(out / f"{BEFORE}.tmp", ignore_errors=True)
    if (out / BEFORE).is_dir() and not (out / ROWS).exists():
        (out / BEFORE).rename(out / ROWS)


def _cut_anew(
    db: duckdb.DuckDBPyConnection, out: Path, lists: Sequence[AnyList], config: DownloadConfig, kin: Sequence[Path]
) -> Plan:
    """Cut the lists into shards, where nothing was fetched yet."""
    first = free_number(kin)
    gone_ones = withdrawn_of(out)
    cutter = Cutter(out / ROWS, out / KNOWN, config.rows_per_shard, config.max_text_chars, first, gone_ones)
    made = cutter.cut(db, lists, 0, config.limit)
    for name in {*part_names(out / ROWS)} - {path.name for path in made}:
        gone(out / ROWS / name)
    if not made:
        raise no_rows(lists)
    return Plan(made, sum(map(num_rows, made)), {}, is_plain=True)


def plan_repair(out: Path, lists: Sequence[AnyList], config: DownloadConfig, kin: Sequence[Path]) -> Plan | None:
    """The parts that the MANIFEST in `out` names, of which some are lost; None where there is no MANIFEST.

    None, too, where the rows of a lost part are lost with it, so that only the lists can tell what is missing. A lost
    part that one of `kin` has is taken from there.
    """
    names = named_files(out)
    if names is None:
        return None
    manifest = read_json(out / MANIFEST) or {}
    files, counts = {entry["name"] for entry in manifest["files"]}, manifest["counts"]
    num_listed = int(counts["rows"]) - int(counts.get("removed", 0))
    if not any(file.startswith(f"{ROWS}/") for file in files):
        return _cut_as_before(out, lists, config, [*names])
    if LEFT_OUT in files and not (out / LEFT_OUT).exists():
        return None
    for name in names:
        rows = out / ROWS / name
        if not rows.exists() and not (out / name).exists():
            return None
        if not rows.exists():
            write_rows_of(out / name, rows)
        if not (out / name).exists():
            _borrow_same(out, name, kin)
    removed = {part: kinds.get("removed", []) for part, kinds in read_left_out(out).items()}
    return Plan([out / ROWS / name for name in names], num_listed, removed, is_plain=LEFT_OUT not in files)


def _borrow_same(out: Path, name: str, kin: Sequence[Path]) -> None:
    """Take a lost part from the first of `kin` that has it with the same rows."""
    wanted = _rows_in(out / ROWS / name)
    for one in kin:
        if (one / name).exists() and _rows_in(one / name) == wanted:
            borrow(out, one / name)
            return


def _rows_in(path: Path) -> list[tuple[str, str]] | None:
    try:
        rows = read_parquet(path, ["key", "uid"])
    except InputError:
        return None
    return [*zip(rows["key"].to_pylist(), rows["uid"].to_pylist(), strict=True)]


def _cut_as_before(out: Path, lists: Sequence[AnyList], config: DownloadConfig, names: Sequence[str]) -> Plan:
    """Cut the lists as the version did that made this artifact, which kept no rows of them.

    Raises InputError where the lists give other parts than it has.
    """
    folder = out / BEFORE
    shutil.rmtree(folder, ignore_errors=True)
    shards = write_shards(lists, folder, config.rows_per_shard, config.limit, config.max_text_chars)
    if [shard.name for shard in shards] != names:
        raise InputError(f"{out}: its lists give {len(shards)} parts, it has {len(names)}; delete it and run again")
    return Plan(shards, sum(map(num_rows, shards)), {}, is_plain=True)
