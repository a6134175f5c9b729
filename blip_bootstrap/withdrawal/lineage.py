"""The artifacts of a run as `forget` sees them: their own tables, borrowed ones, and of which images they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from blip_bootstrap.errors import InputError
from blip_bootstrap.loop.artifacts import RECIPE, STAGING, artifact_folders
from blip_bootstrap.storage.many_files import FILES, FILES_IN, Files
from blip_bootstrap.storage.parts import borrowed_from
from blip_bootstrap.storage.run_folder import MANIFEST, advice_on, as_written
from blip_bootstrap.stores.store import fetched, is_there, sizes_below

DOWNLOAD = "download_images"


@dataclass
class Found:
    """An artifact, whole or half-made, by its folder under the root; `told` is its MANIFEST or the note on it."""

    root: Path
    folder: str
    told: Mapping[str, Any]
    is_whole: bool
    own: list[str] = field(default_factory=list)
    """Its own Parquet files under its folder, hidden ones too."""

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.root / self.folder

    @property
    def step(self) -> str:
        """The step that makes it."""
        return str(self.told.get("recipe", {}).get("step", ""))

    @property
    def inputs(self) -> Mapping[str, str]:
        """Name and content of what it is made of."""
        found: Mapping[str, str] = self.told.get("recipe", {}).get("inputs", {})
        return found

    @cached_property
    def entries(self) -> dict[str, Mapping[str, Any]]:
        """The entries of its MANIFEST, by name."""
        return {str(one["name"]): one for one in self.told.get("files", [])} if self.is_whole else {}

    @cached_property
    def homes(self) -> dict[str, str]:
        """Of each of its Parquet files where it lies, from the root: in its folder, or where it is borrowed from."""
        found = {name: f"{self.folder}/{name}" for name in self.own}
        found |= {name: str(one["at"]) for name, one in self.entries.items() if "at" in one and name not in found}
        if not self.is_whole:
            links = (one for one in self.path.rglob("*.parquet") if one.is_symlink())
            found |= {one.relative_to(self.path).as_posix(): at for one in links if (at := borrowed_from(one))}
        return found


def artifacts_of(root: Path) -> list[Found]:
    """Every artifact of a run, those that no round points to and half-made ones included."""
    staged = [one for one in (root / STAGING).glob("*") if one.is_dir()]
    return [_found(root, folder) for folder in (*artifact_folders(root), *staged)]


def _found(root: Path, folder: Path) -> Found:
    manifest = read_manifest_as_is(folder)
    told = manifest or _read(folder / RECIPE) or {}
    own = sorted(name for name in sizes_below(folder) if name.endswith(".parquet"))
    return Found(root, folder.relative_to(root).as_posix(), told, manifest is not None, own)


def read_manifest_as_is(folder: Path) -> dict[str, Any] | None:
    """The MANIFEST in a folder with its files; also where these were written again, and a kill left the JSON before.

    Raises InputError where it is damaged: an artifact of which it is not known what it is would be deleted.
    """
    path = folder / MANIFEST
    if not is_there(path):
        return None
    try:
        found = as_written(json.loads(fetched(path).read_text(encoding="utf-8")))
    except (ValueError, KeyError) as error:
        raise InputError(f"{path}: damaged ({error}); nothing is taken out; {advice_on(path)}") from error
    if FILES_IN in found:
        found["files"] = Files(pq.read_table(fetched(folder / FILES)))
    return found


def _read(path: Path) -> dict[str, Any] | None:
    if not is_there(path):
        return None
    try:
        found = json.loads(fetched(path).read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


class Lineage:
    """Of which images each artifact is, by the contents that recipes name."""

    def __init__(self, found: list[Found]) -> None:
        self._by_content: dict[str, list[Found]] = {}
        for one in found:
            if content := one.told.get("content"):
                self._by_content.setdefault(str(content), []).append(one)

    def of_content(self, content: str) -> list[Found]:
        """The artifacts that hold what has this digest."""
        return self._by_content.get(content, [])

    def inputs(self, one: Found, *names: str) -> list[Found]:
        """Those artifacts of which one is made that rounds call by one of these names."""
        wanted = (digest for name, digest in one.inputs.items() if name.rpartition("/")[2] in names)
        return [made for digest in wanted for made in self.of_content(digest)]

    def images(self, one: Found) -> list[Found] | None:
        """The images that an artifact is of; none for one that is of no images, None where they are not there."""
        names = {name.rpartition("/")[2] for name in one.inputs}
        if "images" in names:
            return self.inputs(one, "images") or None
        above = names & {"captions", "pairs"}
        if not above:
            return []
        found = self.inputs(one, *above)
        of_these = [self.images(made) for made in found]
        known = [image for images in of_these if images is not None for image in images]
        return known if known or (found and None not in of_these) else None
