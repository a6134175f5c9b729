"""What lies under a run's root: every artifact, which round points to it, and what none points to (`gc`)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blip_bootstrap.loop.artifacts import RECIPE, STAGING, artifact_folders
from blip_bootstrap.storage.pointers import all_pointers, is_ours
from blip_bootstrap.storage.run_folder import (
    MANIFEST,
    made_by_steps,
    manifest_places,
    out_of_date,
    read_json,
    round_name,
    round_of,
)

State = Literal["current", "out of date", "pointed to", "not pointed to", "half-made"]
"""current: a place shows it; out of date: so, and its round is; pointed to: by the record of a round alone."""


@dataclass(frozen=True)
class Entry:
    """An artifact on disk: where, the names by which rounds point to it, and what it is and costs."""

    folder: Path
    names: tuple[str, ...]
    state: State
    step: str
    digest: str
    rows: int
    size_bytes: int
    made: str
    age_s: float

    @property
    def is_leftover(self) -> bool:
        """Whether no round points to it."""
        return not self.names


def list_artifacts(root: Path) -> list[Entry]:
    """Every artifact under `root`, whole and half-made, those that rounds point to first; nothing is changed."""
    pointed: dict[Path, list[str]] = {}
    for number, name, folder in all_pointers(root):
        if round_of(name) != number and name in pointed.get(root / folder, []):
            continue  # shared, and this round was made with the one that is there now
        told = name if round_of(name) == number else f"{name} of {round_name(number or 0)}"
        pointed.setdefault(root / folder, []).append(told)
    own = made_by_steps(root)
    shown = {name: path.parent for name, path in manifest_places(root).items() if path.name == MANIFEST}
    for name, place in shown.items():
        ours = is_ours(root, place)
        if not ours and name not in own:  # a copy of a folder, which is the user's
            continue
        names = pointed.setdefault(root / _target(place) if ours else place, [])
        names += [] if name in names else [name]
    old = {round_name(number) for number in out_of_date(root)}
    staged = [one for one in (root / STAGING).glob("*") if one.is_dir()]
    folders = dict.fromkeys([*pointed, *artifact_folders(root), *staged])
    entries = [_entry(root, folder, pointed.get(folder, []), old) for folder in folders if folder.is_dir()]
    return sorted(entries, key=lambda one: (one.is_leftover, one.names, one.folder))


def _target(place: Path) -> str:
    return str(place.readlink()).removeprefix("../")


def _entry(root: Path, folder: Path, names: list[str], old: set[str]) -> Entry:
    manifest = read_json(folder / MANIFEST)
    begun = manifest or read_json(folder / RECIPE) or {}
    places = {name for name in names if " of " not in name}
    files = (manifest or {}).get("files", [])
    stats = [one.stat() for one in folder.rglob("*") if one.is_file()]
    stamps = [stat.st_mtime for stat in stats] or [folder.stat().st_mtime]
    return Entry(
        folder,
        tuple(names),
        _state(manifest, names, places, old),
        str(begun.get("recipe", {}).get("step", "")),
        str((manifest or {}).get("digest", folder.name.rpartition("--")[2]))[:16],
        sum(entry.get("rows", 0) for entry in files),
        max(sum(entry.get("bytes", 0) for entry in files), sum(stat.st_size for stat in stats)),
        str((manifest or {}).get("made", "")),
        max(time.time() - max(stamps), 0.0),
    )


def _state(manifest: Any, names: list[str], places: set[str], old: set[str]) -> State:
    if manifest is None:
        return "half-made"
    if not names:
        return "not pointed to"
    if not places:
        return "pointed to"
    return "out of date" if all(name.partition("/")[0] in old for name in places) else "current"


def leftovers(root: Path) -> list[Entry]:
    """What no round points to, whole or half-made; hold the run's lock."""
    return [entry for entry in list_artifacts(root) if entry.is_leftover]


def delete(entries: list[Entry]) -> Iterator[Entry]:
    """Delete artifacts, and yield each once it is gone; hold the run's lock since they were listed.

    The MANIFEST goes first: what a kill leaves counts as half-made, never as whole.
    """
    for entry in entries:
        if entry.folder.is_symlink():  # a user's own folder on another disk stays
            entry.folder.unlink()
        else:
            (entry.folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(entry.folder)
        yield entry
