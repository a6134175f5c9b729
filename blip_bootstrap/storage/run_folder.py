"""The names of what lies in a run's folder: rounds, labels, manifests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError

MANIFEST = "MANIFEST.json"
"""Written last into the folder of everything that a step makes; it names the files."""


def named_files(folder: Path) -> list[str] | None:
    """The names of a folder's Parquet files in its MANIFEST, sorted; None where there is none.

    Raises InputError where the MANIFEST is damaged.
    """
    path = folder / MANIFEST
    try:
        names = [str(entry["name"]) for entry in json.loads(path.read_text(encoding="utf-8"))["files"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it to make its folder anew") from error
    return sorted(name for name in names if name.endswith(".parquet") and "/" not in name)


def check_run(root: Path) -> None:
    """Raise InputError where `root` is no folder."""
    if not root.is_dir():
        raise InputError(f"{root}: no such run; give --root, or make it with `blip-bootstrap run` or `demo`")


def round_name(number: int) -> str:
    """The name of a round's folder: `round-02`."""
    return f"round-{number:02d}"


def round_of(name: str) -> int | None:
    """The number of the round that a name belongs to (`round-02/pairs`, `round-02`); None where it is of no round."""
    match = re.match(r"round-([0-9]+)(?:/|$)", name)
    return int(match[1]) if match and match[0].rstrip("/") == round_name(int(match[1])) else None


def manifest_path(path: Path) -> Path:
    """Where the MANIFEST of something that a step has made lies: in the folder, or beside a file that has an ending."""
    return path.with_name(f".{path.name}.{MANIFEST}") if path.suffix else path / MANIFEST


def round_numbers(root: Path) -> list[int]:
    """The numbers of the rounds that have a folder under `root`, ascending.

    A folder that is called otherwise than a run would call it (`round-1`, `round-001`, `round-01 copy`) is none: the
    rows of a round would count once for each.
    """
    found = (round_of(path.name) for path in root.glob("round-*") if path.is_dir())
    return sorted(number for number in found if number is not None)


def rounds_with_pairs(root: Path) -> list[int]:
    """The numbers of the rounds that have pairs, which is what the audits ask about, ascending."""
    return [number for number in round_numbers(root) if (round_folder(root, number) / "pairs").is_dir()]


def round_folder(root: Path, number: int) -> Path:
    """Where round `number` lies."""
    return root / round_name(number)


def read_json(path: Path) -> Any:
    """A JSON object; None where the file is missing. Raises InputError, naming the file, where it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable JSON ({error}); delete it and run again") from error


def manifests(root: Path) -> list[dict[str, Any]]:
    """Every MANIFEST under `root`, oldest first, without those of staged folders and of copies of a folder.

    A copy is told by its MANIFEST, which names another place than the one where it lies.
    """
    places = [path for pattern in ("*", "round-*/*") for path in root.glob(f"{pattern}/{MANIFEST}")]
    of_files = [*root.glob(f"round-*/.*.{MANIFEST}")]
    names = {path: path.parent.relative_to(root).as_posix() for path in places}
    names |= {path: f"{path.parent.name}/{path.name[1:].removesuffix(f'.{MANIFEST}')}" for path in of_files}
    found = ((name, read_json(path) or {}) for path, name in names.items())
    own = [manifest for name, manifest in found if manifest.get("name") == name]
    return sorted(own, key=lambda manifest: str(manifest.get("made", "")))


def labels_path(root: Path, number: int) -> Path:
    """Where the labels of a round lie."""
    return root / "labels" / f"{round_name(number)}.parquet"


def languages_path(root: Path, number: int) -> Path:
    """Where the languages of a round's texts lie."""
    return root / "languages" / f"{round_name(number)}.parquet"


def resolve_round(root: Path, number: int | None) -> int:
    """`number`, or the last round that has pairs; 0 where none has. Raises InputError for a run or round not there."""
    check_run(root)
    made = rounds_with_pairs(root)
    if number is None:
        return made[-1] if made else 0
    if number not in made:
        there = f"it has {', '.join(map(str, made))}" if made else "it has none yet"
        raise InputError(f"{root}: no round {number}; {there}")
    return number
