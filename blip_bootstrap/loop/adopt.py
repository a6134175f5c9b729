"""Runs of the layout before, whose artifacts lie as folders in the rounds, taken over when they are gone on with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.report.report_file import REPORT_FILES
from blip_bootstrap.storage.files import sweep
from blip_bootstrap.storage.pointers import (
    free_folder,
    home_of,
    is_ours,
    link,
    note,
    read_record,
    relink,
)
from blip_bootstrap.storage.run_folder import (
    MANIFEST,
    made_by_steps,
    made_from_another,
    manifest_places,
    read_json,
    round_folder,
    round_numbers,
    round_of,
)
from blip_bootstrap.stores.store import store_of

Pointers = Mapping[str, Mapping[str, str]]


def adopt(root: Path) -> None:
    """Move each artifact that lies in a round, or beside the rounds, under its digest, by one rename, and point to it.

    The records are written first: a run that is killed in between goes on by them. Copies of a folder stay. What a
    killed run was writing beside the artifacts goes.
    """
    for folder in (root, *(round_folder(root, number) for number in round_numbers(root))):
        sweep(folder, REPORT_FILES)
    relink(root)
    found = {name: home for name, place in _to_adopt(root).items() if (home := home_of(place))}
    pointers: dict[str, Mapping[str, str]] = {}
    for name, home in found.items():
        pointers[name] = _pointer(root, name, home, {one["folder"] for one in pointers.values()})
    if pointers and (store := store_of(root)):
        told = f"{store.told}: of the layout before ({next(iter(pointers))}), and nothing can be moved on a store"
        raise InputError(f"{told}; copy it to a disk, run it there once, and copy it back")
    if pointers:
        _note_all(root, pointers)
        for name in pointers:
            link(root, name, pointers[name]["folder"])


def _to_adopt(root: Path) -> dict[str, Path]:
    """The folders of steps that lie at their places by themselves, by name."""
    mine = made_by_steps(root)
    places = {name: path.parent for name, path in manifest_places(root).items() if name in mine}
    return {name: place for name, place in places.items() if place == root / name and not is_ours(root, place)}


def _pointer(root: Path, name: str, home: str, taken: set[str]) -> dict[str, str]:
    """The artifact that a place is to point to: itself, moved, or one of the same digest and content that is there."""
    mine, there = read_json(root / name / MANIFEST), read_json(root / home / MANIFEST)
    same = there and all(there.get(key) == mine.get(key) for key in ("digest", "content"))
    return {"folder": home if same else free_folder(root, home, taken), "digest": str(mine["digest"])}


def _note_all(root: Path, pointers: Pointers) -> None:
    """Write the pointers into the records; what rounds share is noted for each round, which was made with it."""
    shared = {name: one for name, one in pointers.items() if round_of(name) is None}
    made = made_by_steps(root)
    for number in round_numbers(root):
        known = read_record(root, number)
        own = {name: one for name, one in pointers.items() if round_of(name) == number}
        own |= {name: one for name, one in shared.items() if name not in known["artifacts"]}
        note(root, number, own, finished=known["finished"] or _was_finished(root, made, number))
    note(root, None, shared)


def _was_finished(root: Path, made: Mapping[str, Any], number: int) -> bool:
    """Whether a round of the layout before, which kept no record of that, was made to its end."""
    mine = [name for name in made if round_of(name) == number]
    ends = {name.partition("/")[2] for name in made if round_of(name) is not None}
    lacks = [
        name for name in ("pairs", "model") if name in ends and f"{round_folder(root, number).name}/{name}" not in made
    ]
    figures = (round_folder(root, number) / "metrics.json").is_file()
    return figures and not lacks and not any(made_from_another(made, name) for name in mine)
