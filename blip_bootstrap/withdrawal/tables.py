"""What is taken out of a table of a run, by its columns, and what is left of its counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.schemas import shown_tables, tables
from blip_bootstrap.schemas.schema import Column, Table
from blip_bootstrap.select.pairs import counts_of as counts_of_pairs
from blip_bootstrap.storage.notes import values
from blip_bootstrap.storage.parquet import write_parquet
from blip_bootstrap.storage.withdrawn import withdraw
from blip_pipelines.caption.blocks import counts_of as counts_of_captions
from blip_pipelines.lists.known import TABLE as KNOWN

Kind = Literal["pictures", "known", "beside", "texts", "checks", "same"]
"""pictures: `images`, `shard`; known: hashes of these; beside: what is aligned with images; texts: captions, pairs,
labels, languages; checks: `filter_check`; same: `same_pictures`."""

_DECLARED = {one.name: one for one in (*vars(tables).values(), *vars(shown_tables).values(), KNOWN)
             if isinstance(one, Table)}  # fmt: skip


@dataclass(frozen=True)
class Marks:
    """By what rows are known that go: keys of images, and digests of their texts (`digest_of_text`)."""

    keys: frozenset[str]
    texts: frozenset[str] = frozenset()


def kind_of(names: list[str]) -> Kind | None:
    """What a table is, by its columns; None for one that has nothing of single rows of the lists."""
    there = {*names}
    if {"key", "url", "status"} <= there:
        return "pictures"
    if {"id", "high", "low", "rejected"} <= there:
        return "known"
    if {"set", "key", "same_key"} <= there:
        return "same"
    if {"key", "kind", "fits"} <= there:
        return "checks"
    if {"key", "source", "candidate"} <= there:
        return "texts"
    is_beside = "key" in there and ("pdq" in there or "exact_group" in there or {"reason", "language"} <= there)
    return "beside" if is_beside else None


def columns_of(kind: Kind, names: list[str]) -> list[str]:
    """The columns that tell whether rows of a table go, and how they count."""
    wanted = {
        "pictures": ("key", "status", "error_class", "cut_from_chars"),
        "known": ("id", "rejected"),
        "same": ("set", "key", "same_as", "distance"),
        "checks": ("kind", "caption", "fits"),
        "texts": ("key", "source", "kept", "reason", "itm_score", "flags"),
        "beside": ("key", "pdq", "exact_group", "near_group", "duplicate_of", "reason"),
    }[kind]
    return [name for name in names if name in wanted]


def digest_of_text(text: str) -> str:
    """By what a withdrawn text is known: the sha256 of it with whitespace folded."""
    return hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).hexdigest()


def going(rows: pa.Table, kind: Kind, marks: Marks) -> pa.Array:
    """Of each row whether it goes. Rows whose values are gone already, as after a kill, go again."""
    keys = pa.array(sorted(marks.keys), pa.string())
    if kind == "known":
        return _one(pc.is_in(rows["id"], pc.cast(keys, pa.int64())))
    if kind == "checks":
        texts = zip(rows["kind"].to_pylist(), rows["caption"].to_pylist(), strict=True)
        return pa.array([kind == "other" and digest_of_text(text or "") in marks.texts for kind, text in texts])
    mask = pc.is_in(rows["key"], keys)
    if kind == "same":
        mask = pc.and_(mask, pc.equal(rows["set"], "web"))
    if kind == "texts":
        mask = pc.and_(mask, pc.not_equal(rows["source"], "human"))
    return _one(mask)


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return pc.fill_null(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column, False)


def left_of(rows: pa.Table, kind: Kind, mask: pa.Array) -> pa.Table:
    """The table without those rows, or where its rows are aligned with others, without their values."""
    if kind == "pictures":
        return withdraw(rows, mask)
    if kind in ("texts", "checks", "same"):
        return rows.filter(pc.invert(mask))
    nothing = {"high": 0, "low": 0, "url": 0, "rejected": True, "there": False} if kind == "known" else {}
    for at, column in enumerate(rows.schema):
        if column.name not in ("key", "id"):
            value = pa.scalar(nothing.get(column.name), column.type)
            rows = rows.set_column(at, column, pc.if_else(mask, value, rows[column.name]))
    return rows


def write_left(path: Path, rows: pa.Table, before: pa.Schema) -> None:
    """Write a table again with the columns, names and metadata that its file had `before`."""
    told = {key.decode(): value.decode() for key, value in (before.metadata or {}).items()}
    declared = _DECLARED.get(name := told.pop("table", ""))
    meanings = {one.name: (one.meaning, one.dated) for one in declared.columns} if declared else {}
    columns = tuple(Column(one.name, one.type, *meanings.get(one.name, ("", False))) for one in rows.schema)
    settings = (declared.rows_per_group, declared.repeating) if declared else (10_000, None)
    write_parquet(path, rows, Table(name, "", columns, *settings), told)


def counts_in(path: Path, rows: pa.Table, kind: Kind) -> dict[str, int]:
    """What the step that wrote a part counts of its rows."""
    if kind == "texts" and "kept" in rows.column_names:
        return counts_of_pairs(path, rows)
    if kind == "texts" and "flags" in rows.column_names:
        return counts_of_captions(rows)
    if kind != "pictures" or "sha256" not in rows.column_names:
        return {}
    found = {"images": len(rows), **values(rows["status"]), **values(rows["error_class"])}
    cut = rows["cut_from_chars"].null_count if "cut_from_chars" in rows.column_names else len(rows)
    return {**found, "texts_too_long": len(rows) - cut}


def counts_of_gone(path: Path, gone: pa.Table, kind: Kind) -> dict[str, int]:
    """What the counts of an artifact lose with these rows of it."""
    if kind == "texts" and "kept" in gone.column_names:
        return counts_of_pairs(path, gone)
    if kind == "texts" and "flags" in gone.column_names:
        return counts_of_captions(gone)
    if kind == "checks":
        fits = Counter(gone["fits"].to_pylist())
        return {"texts": len(gone), "right": fits[True], "unknown": fits[None]}
    if kind == "same":
        return _counts_of_same(gone)
    if kind != "beside":
        return {}
    if "pdq" in gone.column_names:
        return {"hashed": len(gone) - gone["pdq"].null_count}
    if "exact_group" in gone.column_names:
        return {"pictures": len(gone) - pc.coalesce(gone["exact_group"], gone["near_group"]).null_count}
    return values(gone["reason"])


def _counts_of_same(gone: pa.Table) -> dict[str, int]:
    """Not `left_out_web`: whether it is 0 decides of what a model is made, and this model never saw the pictures."""
    found: Counter[str] = Counter()
    for row in gone.to_pylist():
        kind = f"{row['same_as']}_in_web"
        found[kind] += 1
        found[f"near_{kind}"] += row.get("distance") is not None
    return dict(+found)


def less(counts: Mapping[str, object], gone: Mapping[str, int]) -> dict[str, object]:
    """Counts without those of the rows that are gone; a name whose last row went is not there any more."""
    found = {name: int(was) - gone[name] if isinstance(was := value, int) and name in gone else value
             for name, value in counts.items()}  # fmt: skip
    always = ("rows", "kept", "images", "texts", "right", "unknown", "hashed", "pictures")
    return {name: value for name, value in found.items() if value or name not in gone or name in always}
