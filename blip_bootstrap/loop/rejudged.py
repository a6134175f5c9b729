"""Captions that differ from what is wanted in their judges alone: such judges are then asked, and nothing else made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from blip_bootstrap.config import CaptionConfig, Section
from blip_bootstrap.config.select import BuiltInScore
from blip_bootstrap.loop.growth import GROWTH, Origins, find_kin, same_parts
from blip_bootstrap.loop.layout import Artifact
from blip_bootstrap.storage.parquet import open_parquet, parquet_files, reading
from blip_bootstrap.storage.store import fetched
from blip_pipelines.judges.registry import told_of


def parts_to_judge(
    root: Path, recipe: Mapping[str, Any], section: Section | None, folder: Path, first: Path, made_of: Origins,
    inputs: Sequence[Artifact | None],
) -> dict[str, Path]:  # fmt: skip
    """Parts of other captions that lack nothing but scores of judges, by the names of those that `folder` lacks.

    Captions that more of the judges have scored come before others, and `first` before those that as many have.
    """
    growth = GROWTH.get(str(recipe["step"]))
    if not growth or not growth.scored_by or not isinstance(section, CaptionConfig):
        return {}
    kin = [fetched(one) for one in find_kin(root, recipe, section, folder, first, growth.scored_by)]
    shared = {one: count for one in kin if (count := _num_shared(section, one)) is not None}
    best = sorted(shared, key=lambda one: shared[one], reverse=True)
    found: dict[str, Path] = {}
    for part in same_parts(root, best, made_of, recipe, section, inputs):
        if not (folder / part.name).is_file():
            found.setdefault(part.name, part)
    return found


def _num_shared(section: CaptionConfig, captions: Path) -> int | None:
    """How many of the judges have scored these captions; None where other judges decided which texts there are."""
    wanted = [told_of(one) for one in section.judges]
    same = [one for one in _judges_of(captions) if one in wanted]
    scores = {name for one in same for name in one["scores"]}
    return len(same) if _deciding(section) <= scores else None


def _deciding(section: CaptionConfig) -> set[str]:
    """Scores of judges by which it is decided whether a further text is drawn."""
    rules = section.passes.values() if section.spares else ()
    return {name for rule in rules for name in rule} - {*get_args(BuiltInScore)}


def _judges_of(captions: Path) -> list[dict[str, Any]]:
    """The judges that have scored captions, as the metadata of their first part has it."""
    for part in parquet_files(captions)[:1]:
        with reading(part), open_parquet(part) as file:
            told: list[dict[str, Any]] = json.loads((file.schema_arrow.metadata or {}).get(b"judges", b"[]"))
            return told
    return []
