"""What was made of rows that go, so that its own recipe is to make it anew: trainings, and what others' rows decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.schemas.keys import by_number, is_part
from blip_bootstrap.select.pairs import decides_by_part
from blip_bootstrap.storage.parquet import open_parquet, read_parquet
from blip_bootstrap.withdrawal.lineage import Found, Lineage

Gone = Mapping[str, pa.Table]
"""Of each file that has rows which go, these rows, with the columns that tell how they count."""

Keys = Mapping[str, set[str]]
"""Of each artifact, by its folder, the keys of the rows that go."""


def stale_artifacts(found: list[Found], lineage: Lineage, gone: Gone, keys: Keys) -> dict[str, str]:
    """The folders of what is to be made anew by its own recipe, and why, in words to stand after `was`."""
    whys = ((one.folder, why_stale(one, lineage, gone, keys)) for one in found if one.is_whole and keys[one.folder])
    return {folder: why for folder, why in whys if why}


def why_stale(one: Found, lineage: Lineage, gone: Gone, keys: Keys) -> str | None:
    """Why one is to be made anew; None where it is right without the rows."""
    if one.step in ("pretrain", "train_controls"):
        number = _trained_on(one, lineage, gone, keys)
        return f"trained on {number:,} texts of rows that are withdrawn" if number else None
    if one.step in ("caption_and_score", "check_filter"):
        number = len(reference_keys(one, lineage) & keys[one.folder])
        return f"scored beside {number:,} reference pictures that are withdrawn" if number else None
    if one.step == "select_pairs" and _rows(one, gone):
        config = SelectConfig.model_validate(one.told.get("settings", {}))
        return None if decides_by_part(config) else "decided among rows some of which are withdrawn"
    if one.step == "group_pictures" and _has_lost_first(one, keys[one.folder]):
        return "grouped around rows that are withdrawn"
    return None


def _rows(one: Found, gone: Gone) -> int:
    return sum(len(gone[home]) for home in one.homes.values() if home in gone)


def _trained_on(one: Found, lineage: Lineage, gone: Gone, keys: Keys) -> int:
    """How many texts that go a training may have seen: kept ones, for control arms all."""
    is_control = one.step == "train_controls"
    lent = any("at" in entry for entry in one.entries.values())  # where the models of other arms lie, too
    if is_control and not lent and {*one.told.get("settings", {}).get("arms", ())} == {"human_only"}:
        return 0
    of = lineage.inputs(one, *(("captions", "truth_pairs") if is_control else ("pairs",)))
    if not of:
        return len(keys[one.folder])  # what it was made of is deleted
    tables = [gone[home] for made in of for home in made.homes.values() if home in gone]
    return sum(len(rows) if is_control else pc.sum(rows["kept"]).as_py() or 0 for rows in tables)


def reference_keys(one: Found, lineage: Lineage) -> set[str]:
    """The keys of the pictures that texts were compared with: the first ones of the images, and the next one."""
    settings = one.told.get("settings") or one.told.get("recipe", {}).get("config", {})
    count = int(settings.get("caption", settings).get("references") or 0)
    images = lineage.images(one) or []
    return {*islice(_pictures(images[0]), count + 1)} if count and images else set()


def _pictures(images: Found) -> Iterator[str]:
    for name in sorted(filter(is_part, images.homes), key=by_number):
        rows = read_parquet(images.root / images.homes[name], ["key", "status"])
        yield from rows["key"].filter(pc.equal(rows["status"], "success")).to_pylist()


def _has_lost_first(one: Found, keys: set[str]) -> bool:
    """Whether a row that stays is in a group whose first goes."""
    wanted = pa.array(sorted(keys), pa.string())
    for name in filter(is_part, one.homes):
        path = one.root / one.homes[name]
        columns = [column for column in ("key", "exact_group", "near_group", "duplicate_of")
                   if column in open_parquet(path).schema_arrow.names]  # fmt: skip
        rows = read_parquet(path, columns)
        rows = rows.filter(pc.invert(pc.is_in(rows["key"], wanted)))
        if any(pc.any(pc.is_in(rows[column], wanted)).as_py() for column in columns[1:]):
            return True
    return False


def with_those_after(found: list[Found], stale: Mapping[str, str]) -> list[Found]:
    """What is stale, and all that is made of it, and of that."""
    mine = [one for one in found if one.folder in stale]
    contents = {str(one.told.get("content")) for one in mine}
    while more := [one for one in found if one.is_whole and one not in mine and contents & {*one.inputs.values()}]:
        mine += more
        contents |= {str(one.told.get("content")) for one in more}
    return mine


def cost_of(one: Found, stale: Mapping[str, str]) -> dict[str, Any]:
    """A line of the receipt: what is stale, why, and the seconds that making it took."""
    why = stale.get(one.folder, "made of what is stale")
    told = {"folder": one.folder, "name": str(one.told.get("name", "")), "step": one.step, "why": why}
    return told | {"seconds": float(one.told.get("seconds", 0.0))}
