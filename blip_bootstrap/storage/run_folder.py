"""The names of what lies in a run's folder: rounds, their records, labels, manifests."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.keys import by_number
from blip_bootstrap.storage.many_files import FILES_IN, Files, read_files

MANIFEST = "MANIFEST.json"
"""Written last into the folder of everything that a step makes; it names the files."""

CHECKSUM = "checksum"
"""In a MANIFEST: of all the rest of it, 16 hex digits."""

STALE = "stale"
"""In a MANIFEST: why the artifact is to be made anew by its own recipe, since rows that it is of were withdrawn."""

TRAINING_LOG = "metrics.jsonl"
"""Beside a model: the losses of its training. Pages show them, and no step needs them: one that lacks is passed."""

TRAINED = ("pretrain", "finetune_captioner", "finetune_filter")
"""Steps that train a model: what they have made to its end is made anew only where somebody asks for it."""

TRAIN_ANEW = "put it back from a copy, or delete its folder and run again to train it anew"

ARTIFACTS = "artifacts"
"""Under the root: everything that steps make, each under its step's name and the digest of its recipe."""


def named_files(folder: Path) -> dict[str, str | None] | None:
    """The names of a folder's Parquet files in its MANIFEST, parts by their numbers; None where there is none.

    Each has, where it is borrowed from another artifact, the place of that one's file from the run's root.

    Raises InputError where the MANIFEST is damaged.
    """
    path = folder / MANIFEST
    try:
        found = as_written(json.loads(path.read_text(encoding="utf-8")))
        files = read_files(folder, found[FILES_IN]) if FILES_IN in found else found["files"]
        pairs = files.columns("name", "at") if isinstance(files, Files) else [(f["name"], f.get("at")) for f in files]
        names = {str(name): at for name, at in pairs}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it to make its folder anew") from error
    return {name: names[name] for name in sorted(names, key=by_number) if name.endswith(".parquet") and "/" not in name}


def place_of(folder: Path, name: str, at: str | None) -> Path:
    """Where a file of an artifact lies: in its folder, or where the link to a borrowed part lacks, at its home `at`."""
    if at and not (folder / name).is_file():
        above = (*folder.absolute().parents, *folder.resolve().parents)
        return next((home for root in above if (home := root / at).is_file()), folder / name)
    return folder / name


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


def read_json(path: Path, advice: str | None = None) -> Any:
    """A JSON object; None where the file is missing. Raises InputError, with file and `advice`, where it is damaged.

    A MANIFEST has its `files`, also where these lie in a file of their own.
    """
    try:
        found = as_written(json.loads(path.read_text(encoding="utf-8")))
        return found | {"files": read_files(path.parent, found[FILES_IN])} if FILES_IN in found else found
    except FileNotFoundError:
        return None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable JSON ({error}); {advice or advice_on(path)}") from error
    except (ValueError, KeyError) as error:
        raise InputError(f"{path}: damaged ({error}); {advice or advice_on(path)}") from error


def as_written(found: Any) -> dict[str, Any]:
    """What a JSON file holds. Raises ValueError or KeyError where a MANIFEST is not what was written.

    MANIFESTs have checksums: the first ones none, then one of counts and files, since later one of all.
    """
    if not isinstance(found, dict):
        raise ValueError("it holds no object")
    if CHECKSUM in found:
        if found[CHECKSUM] != _digest({name: value for name, value in found.items() if name != CHECKSUM}):
            raise ValueError("it does not say what was written: its checksum is another")
        return found
    listed = [found[FILES_IN]] if FILES_IN in found else found.get("files")
    if "check" in found and found["check"] != checksum(found["counts"], listed or []):
        raise ValueError("its counts or files are not those that were written")
    return found


def with_checksum(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A MANIFEST as it is written: with a checksum of all that it says, by which `read_json` knows a damaged one."""
    told = {name: value for name, value in manifest.items() if name != CHECKSUM}
    return told | {CHECKSUM: _digest(_as_read(told))}


def advice_on(path: Path) -> str:
    """What to do about a damaged file of a run: to make a trained model anew may take weeks."""
    is_trained = path.resolve().parent.parent.name in TRAINED
    return TRAIN_ANEW if is_trained else "delete it and run again"


def training_lines(model: Path) -> list[dict[str, Any]]:
    """The lines of the log of a model's training: losses by name of steps; what is damaged of it is left out."""
    path, found = model / TRAINING_LOG, []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    for line in lines:
        try:
            one = json.loads(line)
        except ValueError:
            continue
        found += [one] if isinstance(one, dict) and isinstance(one.get("step"), int) else []
    return found


def flat(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one level of dotted names: `{"a": {"b": 1}}` is `{"a.b": 1}`."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def checksum(counts: Mapping[str, Any], files: Sequence[Mapping[str, Any]]) -> str:
    """What a MANIFEST has as `check`, so that a damaged one shows no wrong figure: 16 hex digits."""
    return _digest(_as_read([counts, files]))


def _as_read(told: Any) -> Any:
    """As JSON gives it back, where a whole number as a key is a text."""
    return json.loads(json.dumps(told))


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def record_path(root: Path, number: int | None) -> Path:
    """Where the record of a round lies: which artifacts it is made of; None: the record of what all rounds share."""
    return root / "shared.json" if number is None else round_folder(root, number) / "round.json"


def read_pointers(root: Path, number: int | None) -> dict[str, dict[str, str]]:
    """The artifacts of a round by name (`images`, `round-01/pairs`): `folder` under the root, `digest` of the recipe.

    None: those that all rounds share. Empty where there is no record, as in runs of the layout before. Raises
    InputError where the record is damaged.
    """
    return pointers_in(record_path(root, number))


def pointers_in(record: Path) -> dict[str, dict[str, str]]:
    """The artifacts that a record names; empty where there is no such file. Raises InputError where it is damaged."""
    found = (read_json(record) or {}).get("artifacts", {})
    pointers = found.items() if isinstance(found, dict) else [("artifacts", found)]
    for name, pointer in pointers:
        known = [pointer.get(key) for key in ("folder", "digest")] if isinstance(pointer, dict) else [None]
        if not all(isinstance(one, str) for one in known) or {"..", "/"} & set(Path(str(known[0])).parts):
            told = f"{name} is {json.dumps(pointer)}, where a folder under the run and a digest were expected"
            raise InputError(f"{record}: damaged ({told}); delete it and run again")
    return dict(pointers)


LATER = ("groups", "hashes", "human_hashes", "held_out_hashes")
"""What rounds share since later: those that are older were made without; that it is not there is no difference."""


def used_folder(root: Path, number: int, name: str) -> Path:
    """Where that lies which round `number` was made with, of what rounds share: `images`, `human`, `held_out`.

    Nothing is there where the round was made without it.
    """
    pointers = read_pointers(root, number)
    pointer = pointers.get(name)
    if name in LATER and pointers and not pointer:
        return round_folder(root, number) / name
    folder = root / (pointer["folder"] if pointer else name)
    return folder if folder.is_dir() else root / name


def manifest_places(root: Path) -> dict[str, Path]:
    """The MANIFESTs at the places of a run, by name: `images`, `round-01/pairs`, `round-01/report.html`."""
    places = [path for pattern in ("*", "round-*/*") for path in root.glob(f"{pattern}/{MANIFEST}")]
    of_files = [*root.glob(f"round-*/.*.{MANIFEST}")]
    names = {path.parent.relative_to(root).as_posix(): path for path in places}
    return names | {f"{path.parent.name}/{path.name[1:].removesuffix(f'.{MANIFEST}')}": path for path in of_files}


def manifests(root: Path) -> list[dict[str, Any]]:
    """Every MANIFEST at the places of a run, oldest first, without those of copies of a folder.

    A copy is told by its MANIFEST, which names another place than the one where it lies. An artifact that several
    places have in common was made for one of them; each has it, under its own name, by the record of its round.
    """
    pointers = read_pointers(root, None)
    for number in round_numbers(root):
        pointers |= {name: one for name, one in read_pointers(root, number).items() if round_of(name) == number}
    found = {name: read_json(path) or {} for name, path in manifest_places(root).items()}
    own = [
        manifest | {"name": name}
        for name, manifest in found.items()
        if manifest.get("name") == name or pointers.get(name, {}).get("digest") == manifest.get("digest", "")
    ]
    return sorted(own, key=lambda manifest: str(manifest.get("made", "")))


def made_by_steps(root: Path) -> dict[str, dict[str, Any]]:
    """The MANIFESTs of what steps made, which are folders, by name; figures and pages left out."""
    return {name: one for one in manifests(root) if not Path(name := str(one["name"])).suffix}


def out_of_date(root: Path) -> dict[int, str]:
    """The rounds that were made from something that is another now, and why, in words."""
    made = made_by_steps(root)
    found: dict[int, str] = {}
    for number in round_numbers(root):
        mine = {name: manifest for name, manifest in made.items() if round_of(name) == number}
        if why := next(_whys(made, mine, number, found), None):
            found[number] = why
    return found


def made_from_another(made: Mapping[str, Mapping[str, Any]], name: str) -> list[str]:
    """The names of the round-wise inputs of an artifact that are others now than when it was made from them."""
    inputs = made[name].get("recipe", {}).get("inputs", {})
    return [one for one, digest in inputs.items() if round_of(one) is not None and _is_another(made.get(one), digest)]


def _is_another(manifest: Mapping[str, Any] | None, digest: str) -> bool:
    return manifest is not None and manifest.get("content") != digest


def _whys(
    made: Mapping[str, Mapping[str, Any]], mine: Mapping[str, Mapping[str, Any]], number: int, before: Mapping[int, str]
) -> Iterator[str]:
    for name in mine:
        if told := mine[name].get(STALE):
            yield f"its {name.partition('/')[2]} was {told}"
        for one in mine[name].get("recipe", {}).get("inputs", {}):
            if round_of(one) is None and (told := made.get(one, {}).get(STALE)):
                yield f"its {name.partition('/')[2]} was made with {one}, {told}"
        for one in made_from_another(made, name):
            of = round_of(one)
            yield (
                f"its {name.partition('/')[2]} was made from another {one}"
                if of == number
                else (f"made from another round {of}")
            )
        for one in mine[name].get("recipe", {}).get("inputs", {}):
            if (of := round_of(one)) in before and of != number:
                yield f"made from round {of}, which is out of date"


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
