"""Artifacts where they are made and found: in place, under `artifacts/STEP/DIGEST`, whole once their MANIFEST is there.

No run moves, overwrites or deletes one. Only three things go: what a step kept for itself (hidden files), once the
MANIFEST is there; a damaged file, which is made anew; and a download of which every row failed, before the next try.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blip_bootstrap.config import Section
from blip_bootstrap.loop.layout import Artifact
from blip_bootstrap.loop.whole import manifest_in
from blip_bootstrap.storage.files import sync, write_durable, write_whole
from blip_bootstrap.storage.manifest import digest_of_recipe, recipe_by_today
from blip_bootstrap.storage.pointers import artifact_folder
from blip_bootstrap.storage.run_folder import ARTIFACTS, MANIFEST, read_json
from blip_bootstrap.storage.store import fetched, gone, publish_rest, sizes_below, sizes_there, store_of

STAGING = ".staging"
"""Where the layout before kept what was half-made."""

RECIPE = ".recipe.json"
"""In what is half-made: its name, and the recipe by which it is made."""

REPAIRED = ".repaired.json"
"""In an artifact of which files are made anew: their names. Another size than the MANIFEST's is right for them."""


def is_made_by(made: Mapping[str, Any], recipe: Mapping[str, Any], section: Section | None) -> bool:
    """Whether what `made` tells of (a MANIFEST, or the note on something half-made) counts as made by `recipe`."""
    digest = digest_of_recipe(recipe)
    return digest in (made.get("digest"), digest_of_recipe(recipe_by_today(made["recipe"], section)))


def find_whole(root: Path, recipe: Mapping[str, Any], section: Section | None) -> Path | None:
    """The folder of a whole artifact that counts as made by `recipe`."""
    for folder in _candidates(root, recipe):
        manifest = manifest_in(folder)
        if manifest and is_made_by(manifest, recipe, section):
            return folder
    return None


def begin(root: Path, output: Artifact, recipe: Mapping[str, Any]) -> Path:
    """The folder in which `output` is to be made by `recipe`, with what a killed run made of it already."""
    exact = root / artifact_folder(recipe["step"], digest_of_recipe(recipe))
    _take_from_staging(root, output, recipe, exact)
    half_made = (folder for folder in _candidates(root, recipe) if not (folder / MANIFEST).exists())
    folder = next((one for one in half_made if _is_begun_by(one, exact, recipe, output.section)), exact)
    at = 1
    while (folder / MANIFEST).exists():  # of something else, as one would find it after an edit by hand
        at += 1
        folder = exact.with_name(f"{exact.name}-{at}")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / RECIPE).exists():
        write_whole(folder / RECIPE, json.dumps({"name": output.name, "recipe": recipe}, indent=1))
        sync(folder.parent)
    return fetched(folder)  # of a run on a store: what another machine has made of it


def _candidates(root: Path, recipe: Mapping[str, Any]) -> Iterator[Path]:
    """Where an artifact of a recipe may lie: under its digest first."""
    exact = root / artifact_folder(recipe["step"], digest_of_recipe(recipe))
    yield from [exact] if exact.is_dir() else []
    yield from sorted(one for one in exact.parent.glob("*") if one != exact and one.is_dir())


def _is_begun_by(folder: Path, exact: Path, recipe: Mapping[str, Any], section: Section | None) -> bool:
    begun = read_json(folder / RECIPE)
    return is_made_by(begun, recipe, section) if begun else folder == exact


def _take_from_staging(root: Path, output: Artifact, recipe: Mapping[str, Any], exact: Path) -> None:
    """Go on with what the layout before has half-made."""
    if exact.exists() or not (root / STAGING).is_dir():
        return
    fetched_by = {name: getattr(output.section, name, None) for name in ("timeout_s", "num_retries")}
    config = {name: fetched_by.get(name, value) for name, value in recipe["config"].items()}  # recipes held these once
    for digest in (digest_of_recipe(recipe), digest_of_recipe({**recipe, "config": config})):
        begun = root / STAGING / f"{output.name.replace('/', '--')}--{digest[:16]}"
        if begun.is_dir():
            exact.parent.mkdir(parents=True, exist_ok=True)
            begun.rename(exact)
            return


def has_parts(folder: Path) -> bool:
    """Whether something of an artifact is made already."""
    return any(one.name not in (RECIPE, REPAIRED) for one in folder.iterdir())


def finish(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make what lies in `folder` an artifact, by its MANIFEST, once every byte of it is on the disk."""
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes for the owner alone, and a model is there to be shared
    names = [folder / entry["name"] for entry in manifest["files"]]
    within = {above for name in names for above in name.parents if above.is_relative_to(folder)}
    for path in (*names, *sorted(within | {folder, folder.parent, folder.parent.parent})):
        sync(path)
    publish_rest(folder, [entry["name"] for entry in manifest["files"]])
    write_durable(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    tidy(folder)


def tidy(folder: Path) -> None:
    """Delete what the step kept for itself while it was at work: checkpoints, blocks, lists."""
    hidden = {one.name for one in folder.glob(".*")}
    if store_of(folder):
        hidden |= {name.partition("/")[0] for name in sizes_below(folder) if name.startswith(".")}
    for name in sorted(hidden):
        gone(folder / name)


def damaged_files(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Names of an artifact's files that are missing, or have another size than its MANIFEST says.

    Of those that a killed run was making anew, only the missing ones.
    """
    anew = (read_json(folder / REPAIRED) or {}).get("files", [])
    sizes = {entry["name"]: entry["bytes"] for entry in manifest["files"]}
    there = _sizes(folder, sizes)
    return [name for name, size in sizes.items() if name not in there or (name not in anew and there[name] != size)]


def _sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Bytes of those files that are there; of a run on a store, there."""
    if not store_of(folder):
        return {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}
    homes = {name: (folder / name).resolve() for name in names}  # a part may be borrowed from another artifact
    there: dict[Path, int] = {}
    for above in {home.parent for home in homes.values()}:
        there |= {above / name: size for name, size in sizes_there(above).items()}
    return {name: there[home] for name, home in homes.items() if home in there}


def is_half_repaired(folder: Path) -> bool:
    """Whether a killed run was making files of a whole artifact anew."""
    return (folder / REPAIRED).exists()


def begin_repair(folder: Path, damaged: Sequence[str]) -> None:
    """Take the damaged files away, so that the step makes them anew; until it has, the MANIFEST says what lacks."""
    for name in damaged:
        gone(folder / name)
    sync(folder)
    before = (read_json(folder / REPAIRED) or {}).get("files", [])
    write_durable(folder / REPAIRED, json.dumps({"files": sorted({*before, *damaged})}))
    fetched(folder)


def forget_failures(folder: Path) -> None:
    """Take away the rows of a download that all failed, so that the next run tries them again."""
    for part in sorted(folder.glob("*.parquet")):
        gone(part)
    if not (folder / REPAIRED).exists():
        gone(folder / MANIFEST)
    sync(folder)


def artifact_folders(root: Path) -> list[Path]:
    """The folders of all artifacts, whole and half-made."""
    return sorted(folder for folder in (root / ARTIFACTS).glob("*/*") if folder.is_dir())
