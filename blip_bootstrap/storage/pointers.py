"""Pointers from the places of a run (`images`, `round-01/pairs`) to artifacts: the rounds' records, and links.

The record counts; the link makes the place a path that opens. A run that is killed between the two leaves the record,
and `relink` makes the links by it.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.storage.files import sync, write_durable
from blip_bootstrap.storage.run_folder import (
    ARTIFACTS,
    manifest_path,
    read_json,
    read_pointers,
    record_path,
    round_numbers,
    round_of,
)

DIGITS = 16
"""Digits of a recipe's digest in a folder's name: 64 bits tell more artifacts apart than a run can have."""


UNKNOWN = f"{ARTIFACTS}/unknown"
"""Where that is moved which stood at a place of the run and that no step has made."""


def artifact_folder(step: str, digest: str) -> str:
    """Where the artifact of a recipe lies, under the root."""
    return f"{ARTIFACTS}/{step}/{digest[:DIGITS]}"


def point(root: Path, name: str, folder: str, digest: str, number: int | None) -> str | None:
    """Let the place `name` be the artifact in `folder`, for the round `number` that is being made, if one is.

    What rounds share is noted in the record of the run and in that of the round. What stood at the place stays; the
    folder that it was moved to is returned, if it was.
    """
    of = round_of(name)
    pointer = {name: {"folder": folder, "digest": digest}}
    for record in {of, number if number is not None else of}:
        note(root, record, pointer)
    return link(root, name, folder)


def note(root: Path, number: int | None, pointers: Mapping[str, Mapping[str, str]], finished: bool = False) -> None:
    """Put pointers into a record, in one atomic write; a round that gets another one counts as begun anew."""
    record = read_record(root, number)
    changed = {name: dict(one) for name, one in pointers.items() if record["artifacts"].get(name) != one}
    if changed:
        artifacts = record["artifacts"] | changed
        _write(root, number, {"artifacts": dict(sorted(artifacts.items())), "finished": finished})


def settle(root: Path, number: int, finished: bool = True, without: frozenset[str] = frozenset()) -> None:
    """Note whether a round has everything that its settings ask for, and take the names `without` from its record."""
    record = read_record(root, number)
    artifacts = {name: one for name, one in record["artifacts"].items() if name not in without}
    if record != (now := {"artifacts": artifacts, "finished": finished}):
        _write(root, number, now)
    for name in without:
        if (root / name).is_symlink():
            (root / name).unlink()


def is_finished(root: Path, number: int) -> bool:
    """Whether the round was made to its end, and nothing of it was made anew since."""
    return bool(read_record(root, number)["finished"])


def read_record(root: Path, number: int | None) -> dict[str, Any]:
    """The record of a round, or (None) of what all rounds share; an empty one where there is none."""
    found = read_json(record_path(root, number)) or {}
    return {"artifacts": read_pointers(root, number), "finished": bool(found.get("finished"))}


def _write(root: Path, number: int | None, record: Mapping[str, Any]) -> None:
    path = record_path(root, number)
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        sync(path.parent.parent)
    write_durable(path, json.dumps(record, indent=1) + "\n")


def all_pointers(root: Path) -> Iterator[tuple[int | None, str, str]]:
    """Record, name and folder of every pointer of a run."""
    for number in (None, *round_numbers(root)):
        for name, pointer in read_pointers(root, number).items():
            yield number, name, pointer["folder"]


def relink(root: Path) -> None:
    """Make the links that the records name and that are not there, as after a kill or in a copy without links."""
    for number, name, folder in all_pointers(root):
        if round_of(name) == number and (root / folder).is_dir() and not _exists(root / name):
            link(root, name, folder)


def link(root: Path, name: str, folder: str) -> str | None:
    """Make the place `name` a link to `folder`, in one rename; a folder that stands there is moved aside before.

    Returns where that one lies then, if there was one.
    """
    place = root / name
    target = "../" * name.count("/") + folder  # relative: a root that is moved or copied opens as before
    if place.is_symlink() and str(place.readlink()) == target:
        return None
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = put_aside(root, name)
    staged = place.with_name(f".{place.name}.{uuid.uuid4().hex}.tmp")
    try:
        staged.symlink_to(target, target_is_directory=True)
    except OSError as error:
        raise InputError(f"{place}: cannot be made a link ({error.strerror}); take another root") from error
    staged.replace(place)
    sync(place.parent)
    return aside


def shown_at(root: Path, name: str) -> str | None:
    """The folder, under the root, that a place shows by a link of ours."""
    place = root / name
    return str(place.readlink()).removeprefix("../") if is_ours(root, place) else None


def folder_at(root: Path, name: str) -> str:
    """The folder, under the root, that a place shows; one that stands there by itself is moved among the artifacts."""
    return shown_at(root, name) or put_aside(root, name) or name


def put_aside(root: Path, name: str) -> str | None:
    """Move what stands at a place, if it is no link of ours, among the artifacts; its folder there, None: nothing did.

    It lies under its own step and digest where its MANIFEST tells these, so that the same recipe finds it.
    """
    place = root / name
    if not _exists(place) or is_ours(root, place):
        return None
    folder = free_folder(root, home_of(place) or f"{UNKNOWN}/{place.name}")
    target = root / folder
    target.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():  # a user's own, to another disk: a relative one would not open from there
        target.symlink_to(place.resolve(), target_is_directory=True)
    else:
        place.rename(target)
        sync(place.parent)
    sync(target.parent)
    return folder


def home_of(place: Path) -> str | None:
    """Where the folder at a place belongs, by its MANIFEST; None where that does not tell."""
    manifest = read_json(manifest_path(place)) or {}
    step, digest = manifest.get("recipe", {}).get("step", ""), str(manifest.get("digest", ""))
    good = re.fullmatch(r"\w+", str(step)) and re.fullmatch(rf"[0-9a-f]{{{DIGITS},}}", digest)
    return artifact_folder(str(step), digest) if good else None


def free_folder(root: Path, folder: str, taken: Collection[str] = ()) -> str:
    """`folder`, or where that is there or `taken`, `folder-2` and so on."""
    found, at = folder, 1
    while found in taken or _exists(root / found):
        at += 1
        found = f"{folder}-{at}"
    return found


def is_ours(root: Path, place: Path) -> bool:
    """Whether a place is a link into the run's artifacts, as `link` makes them."""
    return place.is_symlink() and str(place.readlink()).removeprefix("../").startswith(f"{ARTIFACTS}/")


def _exists(place: Path) -> bool:
    return place.is_symlink() or place.exists()
