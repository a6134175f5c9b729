"""Texts that differ from what is wanted in their judges alone: such judges are then asked, and nothing else is made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from blip_bootstrap.config import CaptionConfig, CheckFilterConfig, Section
from blip_bootstrap.config.select import BuiltInScore
from blip_bootstrap.loop.artifacts import damaged_files
from blip_bootstrap.loop.growth import GROWTH, Origins, find_kin, same_parts
from blip_bootstrap.loop.layout import Artifact
from blip_bootstrap.loop.whole import manifest_in
from blip_bootstrap.storage.manifest import digest_of_recipe, recipe_by_today
from blip_bootstrap.storage.parquet import open_parquet, parquet_files, reading
from blip_bootstrap.storage.run_folder import ARTIFACTS, STALE
from blip_bootstrap.stores.store import fetched
from blip_pipelines.judges.registry import told_of

GIVEN = "what caption.judges are"


def parts_to_judge(
    root: Path, recipe: Mapping[str, Any], section: Section | None, folder: Path, first: Path, made_of: Origins,
    inputs: Sequence[Artifact | None],
) -> dict[str, Path]:  # fmt: skip
    """Parts of other artifacts that lack nothing but scores of judges, by the names of those that `folder` lacks.

    What more of the judges have scored comes before others, and `first` before what as many have.
    """
    growth = GROWTH.get(str(recipe["step"]))
    parts: Iterable[Path]
    if isinstance(section, CheckFilterConfig):
        best = _ordered(section.caption.with_all(), _checks(root, recipe, section, folder, first))
        parts = (part for one in best for part in parquet_files(one))
    elif growth and growth.scored_by and isinstance(section, CaptionConfig):
        best = _ordered(section, find_kin(root, recipe, section, folder, first, growth.scored_by))
        parts = same_parts(root, best, made_of, recipe, section, inputs)
    else:
        return {}
    found: dict[str, Path] = {}
    for part in parts:
        if not (folder / part.name).is_file():
            found.setdefault(part.name, part)
    return found


def _checks(root: Path, recipe: Mapping[str, Any], section: CheckFilterConfig, folder: Path, first: Path) -> list[Path]:
    """Whole checks of the filter that differ in their judges alone."""
    wanted, found = _without_judges(recipe, section), []
    for one in sorted((root / ARTIFACTS / str(recipe["step"])).glob("*"), key=lambda one: (one != first, one)):
        made = manifest_in(one) if one != folder else None
        if made and STALE not in made and _without_judges(made["recipe"], section) == wanted:
            found += [] if damaged_files(one, made) else [one]
    return found


def _without_judges(recipe: Mapping[str, Any], section: CheckFilterConfig) -> str:
    found = recipe_by_today(recipe, section)
    caption = {name: value for name, value in found["config"]["caption"].items() if name != "judges"}
    inputs = {name: of for name, of in found["inputs"].items() if name.lstrip("0123456789 ") != GIVEN}
    return digest_of_recipe({**found, "config": {**found["config"], "caption": caption}, "inputs": inputs})


def _ordered(section: CaptionConfig, kin: Sequence[Path]) -> list[Path]:
    """Those of which the texts are the same, in the order of how many of the judges have scored them."""
    shared = {one: count for one in map(fetched, kin) if (count := _num_shared(section, one)) is not None}
    return sorted(shared, key=lambda one: shared[one], reverse=True)


def _num_shared(section: CaptionConfig, texts: Path) -> int | None:
    """How many of the judges have scored these texts; None where other judges decided which texts there are."""
    wanted = [told_of(one) for one in section.judges]
    same = [one for one in _judges_of(texts) if one in wanted]
    scores = {name for one in same for name in one["scores"]}
    return len(same) if _deciding(section) <= scores else None


def _deciding(section: CaptionConfig) -> set[str]:
    """Scores of judges by which it is decided whether a further text is drawn."""
    rules = section.passes.values() if section.spares else ()
    return {name for rule in rules for name in rule} - {*get_args(BuiltInScore)}


def _judges_of(texts: Path) -> list[dict[str, Any]]:
    """The judges that have scored texts, as the metadata of their first part has it."""
    for part in parquet_files(texts)[:1]:
        with reading(part), open_parquet(part) as file:
            told: list[dict[str, Any]] = json.loads((file.schema_arrow.metadata or {}).get(b"judges", b"[]"))
            return told
    return []
