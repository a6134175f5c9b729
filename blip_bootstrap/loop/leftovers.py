"""What lies under a run's root: every artifact, which round points to it, and what none points to (`gc`)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blip_bootstrap.errors import InputError
from blip_bootstrap.loop.artifacts import RECIPE, STAGING, artifact_folders
from blip_bootstrap.storage.many_files import FILES
from blip_bootstrap.storage.parts import borrowed_from
from blip_bootstrap.storage.pointers import all_pointers, is_ours
from blip_bootstrap.storage.run_folder import (
    ARTIFACTS,
    MANIFEST,
    made_by_steps,
    manifest_places,
    out_of_date,
    pointers_in,
    read_json,
    round_name,
    round_of,
)
from blip_bootstrap.storage.verify import damaged_bytes
from blip_bootstrap.stores.store import gone, sizes_below

ARM_RECORDS = "arms/*/*.json"
"""The records of the arms of experiments, which show figures of what they point to."""

State = Literal["current", "out of date", "pointed to", "not pointed to", "half-made"]
"""current: a place shows it; out of date: so, and its round is; pointed to: by the record of a round, or borrowed from
by an artifact that is pointed to."""


@dataclass(frozen=True)
class Entry:
    """An artifact on disk: where, the names by which rounds point to it, and what it is and costs.

    `rows` are those of its parts, `size_bytes` is that of its own files, without what it borrows.
    """

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
    for folder, name in _pointed(root):
        names = pointed.setdefault(folder, [])
        if name not in names and name.partition(" of ")[0] not in names:  # its own, or the shared one
            names.append(name)
    for folder, names in [*pointed.items()]:
        for home in _homes(root, folder):
            lent = pointed.setdefault(home, [])
            lent += [told for name in names if (told := f"parts of {name}") not in lent]
    old = {round_name(number) for number in out_of_date(root)}
    staged = [one for one in (root / STAGING).glob("*") if one.is_dir()]
    folders = dict.fromkeys([*pointed, *artifact_folders(root), *staged])
    entries = [_entry(folder, pointed.get(folder, []), old) for folder in folders if folder.is_dir()]
    return sorted(entries, key=lambda one: (one.is_leftover, one.names, one.folder))


def damaged_in(root: Path) -> Iterator[Path]:
    """The files of artifacts that are missing or have other bytes than their MANIFEST says; and damaged MANIFESTs."""
    places = [path.parent for path in manifest_places(root).values() if path.name == MANIFEST]
    for folder in {one.resolve(): one for one in (*places, *artifact_folders(root))}.values():
        try:
            manifest = read_json(folder / MANIFEST) or {"files": []}
        except InputError as error:
            yield folder / (FILES if str(error).startswith(f"{folder / FILES}:") else MANIFEST)
        else:
            yield from (folder / name for name in damaged_bytes(folder, manifest))


def _pointed(root: Path) -> Iterator[tuple[Path, str]]:
    """Folder and name of everything that a record or a link points to, also in a copy that somebody made of a round."""
    for number, name, folder in all_pointers(root):
        yield root / folder, name if round_of(name) == number else f"{name} of {round_name(number or 0)}"
    for record in root.glob("*/round.json"):
        for name, pointer in pointers_in(record).items():
            yield root / pointer["folder"], f"{name} of {record.parent.name}"
    for record in root.glob(ARM_RECORDS):
        for name, pointer in pointers_in(record).items():
            yield root / pointer["folder"], f"{name} of {record.parent.name}/{record.stem}"
    for place in (*root.glob("*"), *root.glob("*/*")):
        if is_ours(root, place):
            yield root / str(place.readlink()).removeprefix("../"), place.relative_to(root).as_posix()
    for name in made_by_steps(root):  # the layout before: the place is the artifact itself
        if not is_ours(root, root / name):
            yield root / name, name


def _homes(root: Path, folder: Path) -> list[Path]:
    """The artifacts from which one borrows parts, by its MANIFEST, and by its links where it is half-made."""
    told = {str(entry["at"]) for entry in (read_json(folder / MANIFEST) or {}).get("files", []) if "at" in entry}
    linked = {at for part in folder.rglob("*") if part.is_symlink() and (at := borrowed_from(part))}
    return sorted({root.joinpath(*at.split("/")[:3]) for at in told | linked})  # artifacts/STEP/DIGEST


def _entry(folder: Path, names: list[str], old: set[str]) -> Entry:
    manifest = read_json(folder / MANIFEST)
    begun = manifest or read_json(folder / RECIPE) or {}
    places = {name for name in names if " of " not in name}
    files = (manifest or {}).get("files", [])
    stats = [one.stat() for one in folder.rglob("*") if one.is_file() and not one.is_symlink()]
    stamps = [stat.st_mtime for stat in stats] or [folder.stat().st_mtime]
    own_bytes = sum(entry.get("bytes", 0) for entry in files if "at" not in entry)
    return Entry(
        folder,
        tuple(names),
        _state(manifest, names, places, old),
        str(begun.get("recipe", {}).get("step", "")),
        str((manifest or {}).get("digest", folder.name.rpartition("--")[2]))[:16],
        sum(entry.get("rows", 0) for entry in files if "/" not in entry["name"]),  # images/rows/ has each row again
        max(own_bytes, sum(sizes_below(folder).values())),
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
    """What no round points to, whole or half-made; hold the run's lock.

    Raises InputError where the artifacts lie in a folder that other runs may point into, too.
    """
    if (root / ARTIFACTS).is_symlink():
        there = (root / ARTIFACTS).resolve()
        raise InputError(
            f"{root / ARTIFACTS}: is a link to {there}, and other runs may use what this one does not; make it this "
            "run's own folder (remove the link, and move or copy what it leads to), then run gc again"
        )
    return [entry for entry in list_artifacts(root) if entry.is_leftover]


def delete(entries: list[Entry]) -> Iterator[Entry]:
    """Delete artifacts, and yield each once it is gone; hold the run's lock since they were listed.

    The MANIFESTs go first, all of them: what a kill leaves counts as half-made, never as whole, also where one borrows
    parts from another.
    """
    for entry in entries:
        if not entry.folder.is_symlink():
            gone(entry.folder / MANIFEST)
    for entry in entries:
        if entry.folder.is_symlink():  # a user's own folder on another disk stays
            entry.folder.unlink()
        else:
            gone(entry.folder)
        yield entry
