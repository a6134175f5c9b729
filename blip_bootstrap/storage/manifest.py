"""Recipes and digests: what an artifact was made from, and what its files hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from blip_bootstrap import __version__
from blip_bootstrap.config import Section
from blip_bootstrap.schemas.keys import by_number
from blip_bootstrap.schemas.tables import IMAGES
from blip_bootstrap.settings.marks import (
    ByContent,
    CountsAs,
    Grows,
    IdleWhere,
    Later,
    ListPath,
    Speed,
    ToldByDigest,
    mark_of,
)
from blip_bootstrap.storage.files import write_durable
from blip_bootstrap.storage.many_files import FILES, FILES_IN, MANY_FILES, as_parquet, names_of, pointer_to
from blip_bootstrap.storage.notes import Note, digest_of_rows, known_by, read_note
from blip_bootstrap.storage.parquet import open_parquet, reading
from blip_bootstrap.storage.parts import borrowed_from, home_of_part
from blip_bootstrap.storage.run_folder import MANIFEST, checksum, read_json, with_checksum
from blip_bootstrap.stores.store import fetched, gone, size_of, sizes_there

DATED = {*IMAGES.dated}
"""Columns with times, of the tables that have such."""


def digest_of_path(path: Path) -> str:
    """The sha256 of a file, or of a folder's names and files."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file())
    whole = hashlib.sha256()
    for one in files:
        whole.update(f"{one.relative_to(path)} {digest_of_path(one)}\n".encode())
    return whole.hexdigest()


def stamp_of(file: Path) -> tuple[int, ...]:
    """By what is seen that a file has changed: size, times (also of its inode, which nobody can set), inode."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def recipe_of(step: str, section: Section | None, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides a step's output: its name, its settings by their marks, and its inputs' digests."""
    return {"step": step, "config": _settings(section) if section else {}, "inputs": dict(inputs)}


def recipe_by_today(recipe: Mapping[str, Any], section: Section | None) -> dict[str, Any]:
    """A recipe from a MANIFEST, ready to be compared with `recipe_of` today.

    Settings that change nothing (`CountsAs`, `IdleWhere`, `ListPath`) have the value there that today's recipe has.
    """
    return {**recipe, "config": _by_today(recipe["config"], section) if section else dict(recipe["config"])}


def without_growth(recipe: Mapping[str, Any], section: Section | None, grows: Callable[[str], bool]) -> dict[str, Any]:
    """A recipe without the settings that decide which rows there are (`Grows`), and without the inputs that `grows`.

    Two artifacts of which this is equal are kin: made of the same row, their rows are the same.
    """
    by_today = recipe_by_today(recipe, section)
    fields = type(section).model_fields if section else {}
    config = {k: v for k, v in by_today["config"].items() if not (k in fields and mark_of(fields[k], Grows))}
    return {**by_today, "config": config, "inputs": {k: v for k, v in recipe["inputs"].items() if not grows(k)}}


def digest_of_recipe(recipe: Mapping[str, Any]) -> str:
    """The recipe's sha256, 64 hex digits."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _settings(section: BaseModel) -> dict[str, Any]:
    """A section as its recipes hold it."""
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if mark_of(field, Speed) or mark_of(field, ToldByDigest) or (mark_of(field, Later) and value == field.default):
            continue
        if counts_as := mark_of(field, CountsAs):
            found[name] = counts_as.value
        elif isinstance(value, BaseModel):
            found[name] = _settings(value)
        elif isinstance(value, tuple) and value and all(isinstance(one, BaseModel) for one in value):
            found[name] = [_settings(one) for one in value]
        elif mark_of(field, ByContent) and value:
            found[name] = [_content(one) for one in value] if isinstance(value, tuple) else _content(value)
        else:
            found[name] = section.model_dump(mode="json", include={name})[name]
    return found


def _by_today(settings: Mapping[str, Any], section: BaseModel) -> dict[str, Any]:
    """The settings of an older recipe of `section`."""
    found = dict(settings)
    for name, field in type(section).model_fields.items():
        value, counts_as, idle = getattr(section, name), mark_of(field, CountsAs), mark_of(field, IdleWhere)
        if counts_as and name in found:
            found[name] = counts_as.value
        elif idle and getattr(section, idle.setting) == idle.value:
            found[name] = value
        elif mark_of(field, ListPath) and Path(str(found.get(name))).suffixes[-2:] == value.suffixes[-2:]:
            found[name] = str(value)
        elif isinstance(value, BaseModel) and isinstance(found.get(name), Mapping):
            found[name] = _by_today(found[name], value)
        elif isinstance(value, tuple) and isinstance(was := found.get(name), list) and len(was) == len(value):
            both = zip(was, value, strict=True)
            found[name] = [_by_today(old, one) if isinstance(one, BaseModel) else old for old, one in both]
    return found


def _content(name: Path | str) -> str:
    """The digest of what lies under a name; a hub name as it is."""
    return digest_of_path(Path(name)) if Path(name).exists() else str(name)


def manifest_of(
    name: str,
    recipe: Mapping[str, Any],
    section: Section | None,
    counts: Mapping[str, Any],
    seconds: float,
    files: list[dict[str, Any]],
) -> dict[str, Any]:
    """The MANIFEST of something that was just made; `files` as `describe_files` has them."""
    return {
        "check": checksum(counts, files),
        "digest": digest_of_recipe(recipe),
        "recipe": recipe,
        "name": name,
        "content": digest_of_recipe({"files": known_by(files)}),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        "version": __version__,
        "settings": section.model_dump(mode="json") if section else {},
        "counts": dict(counts),
        "files": files,
    }


def short(value: object) -> str:
    """A count or figure as lines of progress show it: 1,234 or 0.1234."""
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def describe_files(folder: Path, made_of: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Name, rows (Parquet), bytes and sha256 of every file of an artifact but its MANIFEST, hidden ones left out.

    What the worker that wrote a part has noted of it is taken, with its counts; other files are read. A borrowed part
    is described as its home's MANIFEST does, with the home (`at`). `made_of` has the digest of what each part was made
    of, by its name, which its entry gets as `of`.
    """
    entries, known = [], KnownParts()
    here = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    for name in sorted(here | sizes_there(folder).keys(), key=by_number):
        if any(part.startswith(".") for part in name.split("/")) or name in (MANIFEST, FILES):
            continue
        entry = known.entry(folder / name, name)
        entries.append(entry | ({"of": made_of[name]} if made_of and name in made_of else {}))
    return entries


def stored(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A MANIFEST as its JSON has it: where it has many files, these are written beside it and named in their place."""
    if len(files := manifest["files"]) <= MANY_FILES:
        gone(folder / FILES)
        return with_checksum(manifest)
    write_durable(folder / FILES, data := as_parquet(files))
    pointer = pointer_to(data, len(files))
    others = {name: value for name, value in manifest.items() if name != "files"}
    return with_checksum(others | {"check": checksum(manifest["counts"], [pointer]), FILES_IN: pointer})


def _described(file: Path, name: str) -> dict[str, Any]:
    fetched(file)
    entry: dict[str, Any] = {"name": name, "bytes": file.stat().st_size, "sha256": digest_of_path(file)}
    if file.suffix == ".parquet":
        with reading(file), open_parquet(file) as opened:
            entry["rows"] = opened.metadata.num_rows
            if left_out := DATED & {*opened.schema_arrow.names}:
                entry["same"] = digest_of_rows(opened.read(), sorted(left_out))
    return entry


class KnownParts:
    """What is known of parts without opening them: by the notes of those who wrote them, or a MANIFEST, each read once.

    Of a borrowed part its home's count.
    """

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Sequence[Mapping[str, Any]], dict[str, int]]] = {}

    def __call__(self, part: Path) -> Note | None:
        """The note of a part; None where nobody has left one, as earlier versions did not, and it is to be read."""
        home = home_of_part(part)
        if (note := read_note(home)) is not None:
            return note
        at = borrowed_from(part)
        name = "/".join(at.split("/")[3:]) if at else home.name  # artifacts/STEP/DIGEST/name
        told = self._told(home.parents[name.count("/")], name)
        if "counts" not in told or "rows" not in told or told.get("bytes") != size_of(home):
            return None
        return Note(told["bytes"], told["sha256"], told["rows"], told["counts"], told.get("same"))

    def rows(self, part: Path) -> int:
        """The number of rows of a part; where nobody has noted it, by its footer. InputError where that is damaged."""
        if (note := self(part)) is not None:
            return note.rows
        with reading(part), open_parquet(part) as file:
            return int(file.metadata.num_rows)

    def entry(self, file: Path, name: str) -> dict[str, Any]:
        """A file of an artifact as its MANIFEST is to have it."""
        if (at := borrowed_from(file)) is None:
            note = read_note(file) if file.suffix == ".parquet" else None
            return {"name": name, **note.entry} if note else self._as_told(file, _described(file, name))
        name = "/".join(at.split("/")[3:])
        home = home_of_part(file)
        told = self._told(home.parents[name.count("/")], name)
        if told.get("bytes") != size_of(file):
            note = read_note(home)  # of what is half-made
            told = {"name": name, **note.entry} if note else _described(file, name)
        kept = ("name", "bytes", "sha256", "rows", "counts", "same")
        return {key: told[key] for key in kept if key in told} | {"at": at}

    def _as_told(self, file: Path, entry: dict[str, Any]) -> dict[str, Any]:
        """The entry of a file that was read, with what else the MANIFEST has of these bytes: by what they are known."""
        name = str(entry["name"])
        told = self._told(file.parents[name.count("/")], name)
        return entry | ({"same": told["same"]} if told.get("sha256") == entry["sha256"] and "same" in told else {})

    def _told(self, folder: Path, name: str) -> Mapping[str, Any]:
        """What the MANIFEST of an artifact says of a file; nothing where it is half-made."""
        if folder not in self._known:
            files = (read_json(folder / MANIFEST) or {}).get("files", [])
            self._known[folder] = files, {file: at for at, file in enumerate(names_of(files))}
        files, places = self._known[folder]
        return files[places[name]] if name in places else {}
