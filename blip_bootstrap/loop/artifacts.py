"""Artifacts where they are made and found: in place, under `artifacts/STEP/DIGEST`, whole once their MANIFEST is there.

No run moves, overwrites or deletes one. Only three things go: what a step kept for itself (hidden files), once the
MANIFEST is there; a damaged file, which is made anew; and a download of which every row failed, before the next try.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blip_bootstrap.config import Section
from blip_bootstrap.loop.layout import Artifact
from blip_bootstrap.loop.whole import manifest_in
from blip_bootstrap.storage.files import make_folder, sweep, sync, write_durable, write_whole
from blip_bootstrap.storage.manifest import digest_of_recipe, recipe_by_today, stored
from blip_bootstrap.storage.many_files import FILES, columns_of, names_of
from blip_bootstrap.storage.notes import NOTES
from blip_bootstrap.storage.parquet import read_parquet
from blip_bootstrap.storage.parts import borrow
from blip_bootstrap.storage.pointers import artifact_folder, shown_at
from blip_bootstrap.storage.run_folder import ARTIFACTS, MANIFEST, STALE, place_of, read_json, read_pointers, round_of
from blip_bootstrap.storage.verify import is_log
from blip_bootstrap.stores.store import fetched, gone, publish_rest, sizes_there, store_of

STAGING = ".staging"
"""Where the layout before kept what was half-made."""

RECIPE = ".recipe.json"
"""In what is half-made: its name, and the recipe by which it is made."""

REPAIRED = ".repaired.json"
"""In an artifact of which files are made anew: their names. Another size than the MANIFEST's is right for them."""


def is_made_by(made: Mapping[str, Any], recipe: Mapping[str, Any], section: Section | None) -> bool:
    """Whether what `made` tells of (a MANIFEST, or the note on something half-made) counts as made by `recipe`.

    What was made of rows that are withdrawn since does not.
    """
    if STALE in made:
        return False
    digest = digest_of_recipe(recipe)
    return digest in (made.get("digest"), digest_of_recipe(recipe_by_today(made["recipe"], section)))


def find_whole(root: Path, recipe: Mapping[str, Any], section: Section | None) -> Path | None:
    """The folder of a whole artifact that counts as made by `recipe`; of several versions of one the last."""
    made = ((folder, manifest_in(folder)) for folder in _candidates(root, recipe))
    whole = {one: manifest for one, manifest in made if manifest and is_made_by(manifest, recipe, section)}
    return max(whole, key=lambda one: int(whole[one].get("version_of_recipe", 1)), default=None)


def last_version(root: Path, recipe: Mapping[str, Any], section: Section | None) -> int:
    """The number of the last version of a recipe that is whole; 0 where none is."""
    found = find_whole(root, recipe, section)
    return int((manifest_in(found) or {}).get("version_of_recipe", 1)) if found else 0


def take_up(root: Path, output: Artifact, recipe: Mapping[str, Any]) -> bool:
    """Whether what is pointed to was made by `recipe` and has lost its MANIFEST; it is half-made from now on.

    Without this an earlier version of it, which lacks the rows that were fetched again since, would take its place.
    """
    shown = shown_at(root, output.name)
    pointer = read_pointers(root, round_of(output.name)).get(output.name)
    if not shown or not pointer or pointer != {"folder": shown, "digest": digest_of_recipe(recipe)}:
        return False
    folder = root / shown
    if not folder.is_dir() or (folder / MANIFEST).exists() or not has_parts(folder):
        return False
    if not (folder / RECIPE).exists():
        write_whole(folder / RECIPE, json.dumps({"name": output.name, "recipe": recipe}, indent=1))
    return True


def begin(root: Path, output: Artifact, recipe: Mapping[str, Any], retry: str | None = None) -> Path:
    """The folder in which `output` is to be made by `recipe`, with what a killed run made of it already.

    With `retry` another version of what is whole: the rows that this names are tried again.
    """
    exact = root / artifact_folder(recipe["step"], digest_of_recipe(recipe))
    if not retry:
        _take_from_staging(root, output, recipe, exact)
    half_made = (folder for folder in _candidates(root, recipe) if not (folder / MANIFEST).exists())
    folder = next((one for one in half_made if _is_begun_by(one, exact, recipe, output.section, retry)), exact)
    at = 1
    while (folder / MANIFEST).exists() or _is_other_try(folder, retry):
        at += 1
        folder = exact.with_name(f"{exact.name}-{at}")
    if not (folder / RECIPE).exists():
        make_folder(folder)
        note = {"name": output.name, "recipe": recipe} | ({"retry": retry} if retry else {})
        write_whole(folder / RECIPE, json.dumps(note, indent=1))
        sync(folder.parent)
    return fetched(folder)  # of a run on a store: what another machine has made of it


def _is_other_try(folder: Path, retry: str | None) -> bool:
    """Whether a half-made folder is for trying other rows again than `retry` names."""
    begun = read_json(folder / RECIPE)
    return bool(begun) and begun.get("retry") != retry


def _candidates(root: Path, recipe: Mapping[str, Any]) -> Iterator[Path]:
    """Where an artifact of a recipe may lie: under its digest first."""
    exact = root / artifact_folder(recipe["step"], digest_of_recipe(recipe))
    yield from [exact] if exact.is_dir() else []
    yield from sorted(one for one in exact.parent.glob("*") if one != exact and one.is_dir())


def _is_begun_by(
    folder: Path, exact: Path, recipe: Mapping[str, Any], section: Section | None, retry: str | None
) -> bool:
    begun = read_json(folder / RECIPE)
    if not begun:
        return folder == exact
    return begun.get("retry") == retry and is_made_by(begun, recipe, section)


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
    return any(one.name not in (RECIPE, REPAIRED, FILES) for one in folder.iterdir())


def drop_empty(folder: Path) -> None:
    """Take a folder away in which a step that failed has made nothing."""
    if not has_parts(folder):
        tidy(folder)
        folder.rmdir()


def finish(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make what lies in `folder` an artifact, by its MANIFEST, once every byte of it is on the disk."""
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes for the owner alone, and a model is there to be shared
    names = [folder / name for name in names_of(manifest["files"])]
    within = {above for file in {name.parent for name in names} for above in (file, *file.parents)}
    # Tables are on the disk since they have their names (`write_parquet`): again, 5,000 borrowed parts took 12 s.
    here = [name for name in names if name.suffix != ".parquet" and name.is_file()]  # of a run on a store not all are
    folders = {above for above in within if above.is_relative_to(folder)}
    for path in (*here, *sorted(folders | {folder, folder.parent, folder.parent.parent})):
        sync(path)
    publish_rest(folder, [entry["name"] for entry in manifest["files"]])
    write_durable(folder / MANIFEST, json.dumps(stored(folder, manifest), indent=1) + "\n")
    tidy(folder)


def tidy(folder: Path) -> None:
    """Delete what the step kept for itself while it was at work: checkpoints, blocks, lists."""
    hidden = {one.name for one in folder.glob(".*")}
    if store_of(folder):
        hidden |= {name.partition("/")[0] for name in sizes_there(folder) if name.startswith(".")}
    for name in sorted(hidden):
        gone(folder / name)
    for within in folder.rglob("*/"):  # a control arm's, where a kill left a file half-written
        sweep(within)
        if (within / NOTES).is_dir():
            gone(within / NOTES)
    if hidden:
        sync(folder)  # a finished round is not looked into again, and a power cut would bring them back


def damaged_files(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Names of an artifact's files that are missing, or have another size than its MANIFEST says.

    Of those that a killed run was making anew, only the missing ones. The log of a training, which no step needs, is
    not looked at.
    """
    anew = (read_json(folder / REPAIRED) or {}).get("files", [])
    sizes = dict(columns_of(manifest["files"], "name", "bytes"))
    there = _sizes(folder, manifest)
    return [name for name, size in sizes.items()
            if not is_log(name) and (name not in there or (name not in anew and there[name] != size))]  # fmt: skip


def _sizes(folder: Path, manifest: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of those of an artifact's files that are there; of a run on a store, there."""
    ats = dict(columns_of(manifest["files"], "name", "at"))
    if (store := store_of(folder)) is None:
        places = {name: place_of(folder, name, at) for name, at in ats.items()}
        return {name: place.stat().st_size for name, place in places.items() if place.is_file()}
    own = folder.resolve()
    homes = {name: store.folder / at if at and not _is_own(folder / name) else own / name for name, at in ats.items()}
    there: dict[Path, int] = {}
    for above in {own, *(home.parent for home in homes.values() if not home.is_relative_to(own))}:
        there |= {above / name: size for name, size in sizes_there(above).items()}
    return {name: there[home] for name, home in homes.items() if home in there}


def _is_own(part: Path) -> bool:
    """Whether a part that was borrowed is a file by now, made anew after it was damaged."""
    return part.exists() and not part.is_symlink()


def is_half_repaired(folder: Path) -> bool:
    """Whether a killed run was making files of a whole artifact anew."""
    return (folder / REPAIRED).exists()


def link_parts(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make the links to borrowed parts that lack, as in a copy of a run that left links out."""
    for entry in manifest["files"]:
        name, at = entry["name"], entry.get("at")
        if at and not (folder / name).is_file() and (home := place_of(folder, name, at)).is_file():
            borrow((folder / name).parent, home)


def begin_repair(folder: Path, damaged: Sequence[str]) -> None:
    """Take the damaged files away, so that the step makes them anew; until it has, the MANIFEST says what lacks.

    Of a borrowed part the link alone goes: what is made anew is the artifact's own.
    """
    for name in damaged:
        gone(folder / name)
    sync(folder)
    before = (read_json(folder / REPAIRED) or {}).get("files", [])
    write_durable(folder / REPAIRED, json.dumps({"files": sorted({*before, *damaged})}))
    fetched(folder)


def forget_failures(folder: Path) -> None:
    """Take away the rows of a download that all failed, so that the next run tries them again.

    A part with pictures stays: that of rows that are in no list any more.
    """
    for part in sorted(fetched(folder).glob("*.parquet")):
        if not _has_pictures(part):
            gone(part)
    if not (folder / REPAIRED).exists():
        gone(folder / MANIFEST)
    sync(folder)


def lost_pictures(folder: Path, before: Mapping[str, Any], counts: Mapping[str, Any]) -> list[str]:
    """Parts of a download that were made anew and have no picture now, where `before`, its MANIFEST, has more pictures.

    They are taken away again, so that the next run tries them again: what was made of their pictures stays current.
    """
    if int(before.get("counts", {}).get("success", 0)) <= int(counts.get("success", 0)):
        return []
    anew = [folder / name for name in (read_json(folder / REPAIRED) or {}).get("files", []) if "/" not in name]
    parts = [part for part in anew if part.suffix == ".parquet" and part.is_file()]
    if any(_has_pictures(part) for part in parts):
        return []
    for part in parts:
        gone(part)
    sync(folder)
    return [part.name for part in parts]


def _has_pictures(part: Path) -> bool:
    return "success" in read_parquet(part, ["status"])["status"].unique().to_pylist()


def artifact_folders(root: Path) -> list[Path]:
    """The folders of all artifacts, whole and half-made."""
    return sorted(folder for folder in (root / ARTIFACTS).glob("*/*") if folder.is_dir())
