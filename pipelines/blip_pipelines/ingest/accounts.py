"""The end of a download: every row of the lists is there once, what is not one of them is noted, all are counted."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from blip_bootstrap.errors import AccountingError
from blip_bootstrap.schemas.keys import ROWS_PER_PART, number_of
from blip_bootstrap.storage.manifest import KnownParts
from blip_bootstrap.storage.notes import total, values
from blip_bootstrap.storage.parts import LEFT_OUT, read_left_out, write_left_out
from blip_bootstrap.stores.store import gone
from blip_pipelines.bring.index import INDEX
from blip_pipelines.lists.extend import note_lists, noted_lists
from blip_pipelines.lists.plan import PLAN, Plan
from blip_pipelines.lists.pool import (
    BEFORE,
    CURRENT,
    create_pool,
    insert,
    read_columns,
    scratch,
    spans_of,
)

Counts = dict[str, int | float | str]


def settle(out: Path, plan: Plan) -> Counts:
    """Check the parts by their shards, note what is left out, and return the counts of the other rows.

    Raises AccountingError where a part has more or fewer rows than its shard, or a row of the lists is missing or there
    twice.
    """
    known = KnownParts()
    for shard in plan.shards:
        rows, made = known.rows(shard), known.rows(out / shard.name)
        if rows != made:
            raise AccountingError(f"{out / shard.name}: {made} rows for {rows} of the list; delete it and run again")
    if plan.base:
        counts = _count_more(out, plan, out.parent / plan.base, known)
    else:
        counts = _count_all(out, plan, known) if plan.is_plain else _count_listed(out, plan)
    if (found := int(counts["rows"]) - int(counts.get("removed", 0))) != plan.num_listed:
        (out / PLAN).unlink(missing_ok=True)
        raise AccountingError(f"{out}: {found} rows for {plan.num_listed} of the lists; run again")
    if plan.lists:
        note_lists(out, plan.lists, plan.limit, plan.num_listed, counts)
    for scratch_of in (BEFORE, INDEX):
        shutil.rmtree(out / scratch_of, ignore_errors=True)
    gone(out / PLAN)
    return counts


def _count_more(out: Path, plan: Plan, base: Path, known: KnownParts) -> Counts:
    """The counts of the artifact that this one grew out of, and those of the parts beside; what it leaves out, too."""
    if (base / LEFT_OUT).exists():
        write_left_out(out, read_left_out(base))
    before = Counter({name: int(number) for name, number in noted_lists(base)["rows"].items()})
    return dict(+(before + Counter({name: int(number) for name, number in _count_all(out, plan, known).items()})))


def _count_all(out: Path, plan: Plan, known: KnownParts) -> Counts:
    counts = total([note.counts if (note := known(part)) else _count_part(part)
                    for shard in plan.shards for part in [out / shard.name]])  # fmt: skip
    return {"rows": counts.pop("images", 0), **{name: number for name, number in counts.items() if number}}


def _count_part(part: Path) -> dict[str, int]:
    """The counts of a part of which nobody has left a note."""
    table = read_columns(part)
    counts = total([{"images": len(table)}, values(table["status"]), values(table["error_class"])])
    if "cut_from_chars" in table.column_names:
        counts["texts_too_long"] = len(table) - table["cut_from_chars"].null_count
    return counts


def _count_listed(out: Path, plan: Plan) -> Counts:
    with scratch(out) as db:
        create_pool(db)
        for shard in plan.shards:
            insert(db, read_columns(out / shard.name))
        db.execute(CURRENT)
        _place(db, plan)
        left_out = spans_of(db, "place <> 'listed'")
        gone(out / LEFT_OUT)  # it may be of a plan before this one
        write_left_out(out, left_out)
        return _counted(db)


def _place(db: duckdb.DuckDBPyConnection, plan: Plan) -> None:
    """The table `placed` of the parts as they are now; what is removed is so whichever try at it is the current one."""
    spans = [(number_of(part), *span) for part, spans in plan.removed.items() for span in spans]
    ranges = [np.arange(first, last + 1) + number * ROWS_PER_PART for number, first, last in spans]
    db.register("gone", pa.table({"id": np.concatenate([np.empty(0, np.int64), *ranges])}))
    db.execute("CREATE TABLE removed AS SELECT id, uid, kind FROM pool SEMI JOIN gone USING (id)")
    db.unregister("gone")
    db.execute(
        "CREATE TABLE placed AS SELECT *, CASE WHEN nth = 0 THEN 'retried' "
        "WHEN kind = '' AND uid IN (SELECT uid FROM removed WHERE kind = '') THEN 'removed' "
        "WHEN kind <> '' AND id IN (SELECT id FROM removed) THEN 'removed' ELSE 'listed' END AS place FROM standing"
    )


def _counted(db: duckdb.DuckDBPyConnection) -> Counts:
    """Of the rows of the lists; `rows` has those that were removed as well, of which `removed` is the number."""
    (rows, num_cut, removed), *_ = db.execute(
        "SELECT count(*), count(*) FILTER (is_cut AND place = 'listed'), count(*) FILTER (place = 'removed') "
        "FROM placed WHERE place <> 'retried'"
    ).fetchall()
    counts: Counter[str] = Counter({"rows": rows})
    for column in ("status", "error_class"):
        sql = f"SELECT {column}, count(*) FROM placed WHERE place = 'listed' AND {column} IS NOT NULL GROUP BY ALL"
        counts.update(dict(db.execute(f"{sql} ORDER BY 2 DESC, 1").fetchall()))
    return dict(+(counts + Counter({"texts_too_long": num_cut, "removed": removed})))
