"""The notes of an export: what it is of (`EXPORT`), and which of its shards are whole (`.parts`)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError, RunFailed
from blip_bootstrap.storage.files import check_writable
from blip_pipelines.export.place import Place

NOTE = "EXPORT"

PARTS = ".parts"
"""Hidden folder: a note for each shard, written once the shard is whole; while lists are made, pieces of them."""


@dataclass(frozen=True)
class Done:
    """A shard that is whole: its files with bytes and sha256, and counts of what is in it."""

    name: str
    files: tuple[tuple[str, int, str], ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    datasets: Mapping[str, int] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """The name of its note."""
        return f"{PARTS}/{self.name}.json"

    def write(self, place: Place) -> None:
        """Leave the note; the shard counts from now on."""
        place.write(self.note, (json.dumps(asdict(self)) + "\n").encode())


def read_done(place: Place, name: str, are_joined: bool = False) -> Done | None:
    """A shard that is whole, by its note; None where a file of it lacks or has another size.

    `are_joined`: its files were pieces of a larger one, and are gone.
    """
    content = place.read(Done(name).note)
    if content is None:
        return None
    try:
        found = json.loads(content)
        done = Done(name, tuple((a, b, c) for a, b, c in found["files"]), found["counts"], found["datasets"])
    except (ValueError, KeyError, TypeError):
        return None  # damaged: the shard is made again
    return done if are_joined or all(place.size(file) == size for file, size, _ in done.files) else None


def claim(place: Place, recipe: Mapping[str, Any]) -> bool:
    """Begin an export of this recipe, or go on with it; whether it is finished already.

    Raises InputError where the place holds another export or something else, or cannot be written.
    """
    if place.is_here:
        _check_here(place)
    content = place.read(NOTE)
    if content is None:
        if place.has_any():
            raise InputError(f"{place.told}: is not empty, and holds no export; give --out a new folder")
        place.write(NOTE, _text({"recipe": dict(recipe), "finished": False}))
        return False
    try:
        found = json.loads(content)
        was, finished = dict(found["recipe"]), bool(found["finished"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place.told}/{NOTE}: damaged ({error}); give --out a new folder") from error
    if was != json.loads(json.dumps(recipe)):
        raise InputError(f"{place.told}: holds an export {_told(was, recipe)}; give --out a new folder, or delete it")
    return finished


def _check_here(place: Place) -> None:
    path = Path(place.at)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; give --out a folder")
    check_writable(path / NOTE)


def _told(was: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """By what the export that is there differs from the one that is wanted."""
    names = [name for name in {**wanted, **was} if was.get(name) != wanted.get(name)]
    plain = [f"{name} {was.get(name)} and not {wanted.get(name)}" for name in names if name != "inputs"]
    return f"with {', '.join(plain)}" if plain else "of other tables: the round was made anew since"


def finish(place: Place, recipe: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Note that all is there."""
    place.write(NOTE, _text({"recipe": dict(recipe), "finished": True, **told}))


def check_seen(place: Place, recipe: Mapping[str, Any], node: str) -> None:
    """In a worker: raise RunFailed where it does not see the place, as on another machine."""
    content = place.read(NOTE)
    if content is None or json.loads(content).get("recipe") != json.loads(json.dumps(recipe)):
        raise RunFailed(f"{place.told}: {node} does not see this folder; put it on a shared disk, or give --out s3://")


def total(done: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums of counts, by name."""
    sums = Counter[str]()
    for counts in done:
        sums.update(counts)
    return dict(sorted(sums.items()))


def _text(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
