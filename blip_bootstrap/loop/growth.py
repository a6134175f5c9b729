"""Artifacts that grow by part: their kin, and the parts of these that are made of the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.config import CaptionConfig, Section, SelectConfig
from blip_bootstrap.loop.artifacts import RECIPE, damaged_files
from blip_bootstrap.loop.layout import Artifact
from blip_bootstrap.loop.whole import manifest_in
from blip_bootstrap.schemas.keys import by_number
from blip_bootstrap.select.pairs import decides_by_part
from blip_bootstrap.storage.manifest import digest_of_recipe, without_growth
from blip_bootstrap.storage.notes import digest_in
from blip_bootstrap.storage.parquet import open_parquet, read_parquet
from blip_bootstrap.storage.parts import borrow, of_rows, read_left_out
from blip_bootstrap.storage.run_folder import ARTIFACTS, STALE, read_json

Origins = Mapping[str, str]
"""Of each part what it was made of, as 64 hex digits, by its name."""


@dataclass(frozen=True)
class Growth:
    """How a step's artifacts grow: by the name of the input that does, each part of which makes one part.

    `reads_left_out`: whether rows that are left out change the part that is made. `beside`: other inputs, where they
    are given, whose files of the same name decide about the part, too. `scored_by`: a setting and the input of its
    digest that decide about scores alone which are added to what is there (`loop/rejudged.py`).
    """

    grows: str
    reads_left_out: bool = False
    beside: tuple[str, ...] = ()
    scored_by: tuple[str, str] | None = None


SET_ASIDE_BY = ("groups", "text_checks")
"""Inputs that set texts aside before the rule."""

GROWTH = {
    "hash_pictures": Growth("images"),
    "check_texts": Growth("images"),
    "caption_and_score": Growth("images", scored_by=("judges", "what caption.judges are")),
    "take_web_pairs": Growth("images", reads_left_out=True, beside=SET_ASIDE_BY),
    "select_pairs": Growth("captions", reads_left_out=True, beside=SET_ASIDE_BY),
}
"""Steps whose parts are each made of one part of an input. A download makes its own parts, of rows of its lists."""


def find_kin(
    root: Path, recipe: Mapping[str, Any], section: Section | None, folder: Path, first: Path,
    but: tuple[str, str] | None = None,
) -> list[Path]:  # fmt: skip
    """Artifacts, whole and half-made, that differ from `recipe` in what grows alone; `first` comes before the others.

    `folder`, where the recipe is being made, is none of them. They may also differ in `but`, a setting and an input.
    """
    step = str(recipe["step"])
    if step not in GROWTH and step != "download_images":
        return []
    grows = _grown_by(GROWTH[step]) if step in GROWTH else ()
    wanted = _kinship(recipe, section, grows, but)
    found = {one: begun for one in sorted((root / ARTIFACTS / step).glob("*")) if (begun := begun_in(one))}
    kin = [one for one, begun in found.items() if _kinship(begun["recipe"], section, grows, but) == wanted]
    age = {one: str(found[one].get("made", "")) for one in kin}
    return sorted((one for one in kin if one != folder), key=lambda one: (one == first, age[one], one), reverse=True)


def begun_in(folder: Path) -> Mapping[str, Any] | None:
    """The MANIFEST of an artifact, or the note on one that is half-made; None where it is to be made anew."""
    begun: Mapping[str, Any] | None = manifest_in(folder) or read_json(folder / RECIPE)
    return begun if begun and "recipe" in begun and STALE not in begun else None


def _grown_by(growth: Growth) -> tuple[str, ...]:
    return (growth.grows, *growth.beside)


def _kinship(
    recipe: Mapping[str, Any], section: Section | None, grows: Sequence[str], but: tuple[str, str] | None
) -> str:
    found = without_growth(recipe, section, lambda name: not grows or any(_is(name, one) for one in grows))
    if but:
        setting, given = but
        config = {name: value for name, value in found["config"].items() if name != setting}
        inputs = {name: of for name, of in found["inputs"].items() if name.lstrip("0123456789 ") != given}
        found = {**found, "config": config, "inputs": inputs}
    return digest_of_recipe(found)


def _is(name: str, grows: str) -> bool:
    return name.rpartition("/")[2] == grows


def origins(recipe: Mapping[str, Any], inputs: Sequence[Artifact | None]) -> dict[str, str]:
    """What each part of an artifact that is made by part is to be made of; empty for one that is not."""
    growth = GROWTH.get(str(recipe["step"]))
    grown = next((one for one in inputs if growth and one and _is(one.name, growth.grows)), None)
    if not growth or not grown:
        return {}
    parts = _origins(grown.local, growth)
    for one in inputs:
        if one and any(_is(one.name, name) for name in growth.beside):
            parts = _with_files_of(parts, one)
    return parts


def _with_files_of(parts: dict[str, str], beside: Artifact) -> dict[str, str]:
    """The digests of parts with those of the files of the same names in another input."""
    files = {str(one["name"]): digest_in(one) for one in (manifest_in(beside.local) or {}).get("files", [])}
    kind = beside.name.rpartition("/")[2]
    made_of = {name: digest_of_recipe({"part": parts[name], kind: files[name]}) for name in parts if name in files}
    return parts | made_of


def _origins(source: Path, growth: Growth) -> dict[str, str]:
    """The digest of each part of an input, with its rows that are left out where these count."""
    files = (manifest_in(source) or {}).get("files", [])
    parts = {str(one["name"]): digest_in(one) for one in files if _is_part(one["name"])}
    for name, spans in read_left_out(source).items() if growth.reads_left_out else ():
        if name in parts and (of_texts := of_rows(spans, _keys(source / name))):
            parts[name] = digest_of_recipe({"part": parts[name], "left_out": of_texts})
    return parts


def _keys(part: Path) -> pa.ChunkedArray:
    """The keys of a part's rows that have texts: all of captions, those with a picture of images."""
    columns = ["key", "status"] if "status" in open_parquet(part).schema_arrow.names else ["key"]
    rows = read_parquet(part, columns)
    return rows["key"].filter(pc.equal(rows["status"], "success")) if "status" in columns else rows["key"]


def _is_part(name: str) -> bool:
    return name.endswith(".parquet") and "/" not in name


def borrow_parts(
    root: Path, folder: Path, kin: Sequence[Path], made_of: Origins, recipe: Mapping[str, Any],
    section: Section | None, inputs: Sequence[Artifact | None],
) -> int:  # fmt: skip
    """Let the artifact that is made in `folder` have the parts of its kin that are made of the same; how many."""
    count = 0
    for part in same_parts(root, kin, made_of, recipe, section, inputs):
        if not (folder / part.name).is_file():
            borrow(folder, part)
            count += 1
    return count


def same_parts(
    root: Path, kin: Sequence[Path], made_of: Origins, recipe: Mapping[str, Any], section: Section | None,
    inputs: Sequence[Artifact | None],
) -> Iterator[Path]:  # fmt: skip
    """The parts of kin that are made of the same as those of an artifact by `recipe`."""
    growth = GROWTH.get(str(recipe["step"]))
    if not growth or not made_of or not _is_by_part(section):
        return
    grown = next(one for one in inputs if one and _is(one.name, growth.grows))
    for one in kin:
        was = _origins_then(root, one, grown.local, growth)
        if was and _has_references(section, grown.local, was, made_of):
            damaged = damaged_files(one, manifest_in(one) or {"files": []})
            same = [name for name, of in made_of.items() if was.get(name) == of and name not in damaged]
            yield from (one / name for name in same if (one / name).is_file())


def reads_of(recipe: Mapping[str, Any], section: Section | None, one: Artifact, folder: Path) -> Callable[[str], bool]:
    """Which files of an input the step reads that makes the artifact in `folder`: not those of parts that it has."""
    growth = GROWTH.get(str(recipe["step"]))
    if not growth or not _is(one.name, growth.grows) or not _is_by_part(section):
        return lambda name: True
    return lambda name: "/" not in name and not (_is_part(name) and (folder / name).exists())


def _is_by_part(section: Section | None) -> bool:
    return not isinstance(section, SelectConfig) or decides_by_part(section)


def _origins_then(root: Path, kin: Path, source: Path, growth: Growth) -> dict[str, str]:
    """What the parts of an artifact were made of; those of an earlier version and half-made ones do not say it."""
    manifest = manifest_in(kin)
    told = {one["name"]: one["of"] for one in (manifest or {}).get("files", []) if "of" in one}
    if told:
        return told
    begun = begun_in(kin) or {}
    if any(_is(name, one) for name in begun.get("recipe", {}).get("inputs", {}) for one in growth.beside):
        return {}
    contents = {digest for name, digest in begun.get("recipe", {}).get("inputs", {}).items() if _is(name, growth.grows)}
    step = (manifest_in(source) or {}).get("recipe", {}).get("step", "")
    among = (root / ARTIFACTS / step).glob("*")
    then = next((one for one in among if (manifest_in(one) or {}).get("content") in contents), None)
    return _origins(then, growth) if then else {}


def _has_references(section: Section | None, images: Path, was: Origins, now: Origins) -> bool:
    """Whether captions of both were compared with the same references: the first pictures of the images.

    A picture that was stored can be read; so they are the same where the parts that both begin with have enough.
    """
    if not isinstance(section, CaptionConfig) or not section.references or dict(was) == dict(now):
        return True
    pictures = 0
    first, then = (sorted(of.items(), key=lambda one: by_number(one[0])) for of in (was, now))
    for before, after in zip(first, then, strict=False):
        if before != after:
            break
        pictures += pc.sum(pc.equal(read_parquet(images / after[0], ["status"])["status"], "success")).as_py() or 0
        if pictures > section.references:
            return True
    return False
